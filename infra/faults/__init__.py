"""Failure as a promise: seeded schedules of faults, and a comparison with an undisturbed run."""
