"""SQLite itself: connections, transactions, locks, statements and errors."""
