"""`mix:a`: a times replay plus (1 - a) times the score function, with a in [0, 1]."""

from __future__ import annotations

from .base import Estimator


def parse_mix(spec: str) -> Estimator | None:
    """The estimator of `mix:a`; None if it is written in another way or a is no number from 0 to 1."""
    kind, _, share = spec.partition(":")
    try:
        replay = float(share)
    except ValueError:
        replay = -1.0
    return Estimator(spec, replay) if kind == "mix" and 0 <= replay <= 1 else None
