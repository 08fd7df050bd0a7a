"""Metrics of a run: metrics.jsonl and W&B."""
