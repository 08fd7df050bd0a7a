"""How long tests wait for other processes."""

LONG = 1200  # seconds: ends a hang, and a slow or busy machine stays below it
