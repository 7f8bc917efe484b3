"""Records, descriptors, envelopes, plans and checks: pure, without I/O or a clock."""
