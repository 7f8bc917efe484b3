"""The control database: what is in it, how it is reached, how it is made."""
