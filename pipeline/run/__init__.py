"""What the commands do to a run folder: train, evaluate, calibrate, audit. Each can be called from Python."""
