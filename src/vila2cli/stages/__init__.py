"""One module per command: a function from files to files."""
