"""The command line: a file for each command, and `border.py`, where every error becomes a message."""
