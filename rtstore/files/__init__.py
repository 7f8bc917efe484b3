"""What the store does with files: durable replacement, safe paths, inspection, evidence."""
