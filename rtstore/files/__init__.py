"""The seam to the file system: system calls, durable replacement, safe paths."""
