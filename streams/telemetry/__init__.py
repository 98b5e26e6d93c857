"""Metrics, logs and progress bars."""
