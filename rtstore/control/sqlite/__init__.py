"""SQLite: connections, transactions, locks, statements and errors."""
