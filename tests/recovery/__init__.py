"""Plans carried out, and rebuilders."""
