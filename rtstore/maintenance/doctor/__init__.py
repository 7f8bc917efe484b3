"""The doctor: it gathers facts of a runtime directory, and judges them."""
