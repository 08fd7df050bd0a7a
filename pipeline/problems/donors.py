"""Donors: which problem gives its latents to which other, where latents are swapped."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def derange(answers: Sequence[str], counts: Sequence[int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A donor for each problem: a problem with another answer and as many latents. Each problem is a donor once.

    Problems are put in a circle, grouped by answer. The donor of each is m places further, where m is the size of the
    largest group. An answer with more than half of the problems loses the surplus, which has no donor.

    Args:
        answers: (P) answer of each problem.
        counts: (P) number of latents of each problem.

    Returns:
        rows: (R,) problems that have a donor.
        donors: (R,) their donors, the same problems in another order.
    """
    rng = np.random.default_rng(seed)
    rows: list[int] = []
    donors: list[int] = []
    for count in sorted(set(counts)):
        groups: dict[str, list[int]] = {}
        for row in rng.permutation([row for row, other in enumerate(counts) if other == count]).tolist():
            groups.setdefault(answers[row], []).append(row)
        largest = max(groups, key=lambda answer: len(groups[answer]))
        others = sum(map(len, groups.values())) - len(groups[largest])
        groups[largest] = groups[largest][:others]
        circle = [row for group in groups.values() for row in group]
        rows += circle
        donors += np.roll(circle, -max(map(len, groups.values()))).astype(int).tolist()
    return np.array(rows, dtype=int), np.array(donors, dtype=int)
