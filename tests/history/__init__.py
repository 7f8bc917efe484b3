"""What was committed: read, earlier versions, pruning."""
