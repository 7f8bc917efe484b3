"""Records, descriptors, envelopes, plans and checks: pure, without input, output or a clock."""
