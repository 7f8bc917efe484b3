"""Read what was committed: current data, earlier versions, differences. Prune old history."""
