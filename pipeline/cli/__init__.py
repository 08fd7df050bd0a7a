"""The command line: a file for each command, and `errors.py`, where every error becomes a message."""
