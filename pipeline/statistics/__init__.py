"""Estimators over samples, intervals and tests: NumPy alone."""
