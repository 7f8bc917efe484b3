"""Upgrades: every shipped revision, frozen with a populated database, comes up to the newest."""
