"""What is done to a whole runtime directory: create, upgrade, back up, rebuild, examine."""
