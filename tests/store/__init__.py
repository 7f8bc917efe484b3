"""`RuntimeStore` as a program uses it."""
