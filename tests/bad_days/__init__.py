"""What goes wrong on bad days, by where it comes from. Each module has its DAYS."""
