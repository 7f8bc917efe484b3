"""The doctor: gathers facts about a runtime directory, and judges them."""
