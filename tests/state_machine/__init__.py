"""A plain dictionary model beside the store, driven by Hypothesis through every public way in."""
