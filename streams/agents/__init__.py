"""Thin loops around the core, one file a role."""
