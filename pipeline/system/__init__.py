"""What the machine gives: files that stay whole, locks, processes, signals."""
