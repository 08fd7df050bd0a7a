"""The command line: a file for each command, and what becomes of errors."""
