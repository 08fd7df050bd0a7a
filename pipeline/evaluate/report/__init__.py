"""The report of a run: its data, its figures and its page."""
