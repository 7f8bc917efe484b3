"""The layers, the rules of the house, the documents and the wheel."""
