"""The machine below a run: files that stay whole, locks, processes, signals, private parts of libraries."""
