"""The commands of `rtstore`, one in each module: its options, its help, its work."""
