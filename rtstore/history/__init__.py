"""What was committed: current data, earlier versions, differences, and the end of history."""
