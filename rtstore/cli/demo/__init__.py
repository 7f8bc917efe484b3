"""What `rtstore demo` shows, and the process that it kills."""
