"""Hostile input: whatever a file, a name or a database holds, the answer is a result or an error of
ours, in time, with nothing changed that is not the store's own."""
