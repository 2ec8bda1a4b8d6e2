"""Backups: one version of each dataset, copied to another place, and brought back from there."""
