"""The command `rtstore`, as people and programs use it."""
