"""Maintenance of datasets: who runs it, one at a time, and how each run is recorded."""
