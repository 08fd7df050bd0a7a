"""Which problem gives its latents to which, where latents are swapped: no tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def derange(answers: Sequence[str], counts: Sequence[int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A donor for each problem: another one, with another answer and as many latents; each gives once.

    Problems of one answer stand together in a random order of the answers; each takes the latents of the one as many
    places further as the most common answer has problems, round a circle. Where one answer has more than half of the
    problems, those too many are left out.

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
