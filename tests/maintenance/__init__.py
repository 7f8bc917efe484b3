"""Whole directories: create, back up, rebuild, examine."""
