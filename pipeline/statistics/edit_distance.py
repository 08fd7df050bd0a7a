"""The Levenshtein distance of two sequences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def edit_distance(a: Sequence[int], b: Sequence[int]) -> float:
    """Fewest insertions, deletions and changes that make b of a, over the longer length: from 0, equal, to 1."""
    if not a or not b:
        return float(bool(a) != bool(b))
    places, other = np.arange(len(b) + 1), np.array(b)
    row = places
    for value in a:
        # Without insertions first; those are a running minimum of what is left after taking each place's own steps.
        changed = np.append(row[0] + 1, np.minimum(row[1:] + 1, row[:-1] + (other != value)))
        row = np.minimum.accumulate(changed - places) + places
    return float(row[-1] / max(len(a), len(b)))
