"""Runs: who began last owns the directory, whatever else lives, dies or comes back."""
