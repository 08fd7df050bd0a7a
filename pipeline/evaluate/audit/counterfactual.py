"""The counterfactual: a question is answered with the latents of itself with one thing changed.

If the answer is made of the latents, it becomes the answer of the changed question. If it is made of the question, it
stays. The two questions differ in one word only (in data that gives changed questions, in what these change), so nearly
everything in the donor's latents fits the question. That is not so after a swap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ....data.problem import Problem
from ....rewards.score import is_right
from ...model.reasoner import Reasoner
from ...recipe.schema import EvaluateSection
from ...statistics.intervals import Mean
from .interventions import Answers, answer


@dataclass(frozen=True)
class Transplant:
    """Answers to questions with the latents of the changed questions, as shares of the same problems.

    Attributes:
        follow: Right for the changed question.
        stay: Right for the question itself.
        lead: Paired difference, follow less stay.
    """

    follow: Mean
    stay: Mean
    lead: Mean

    @property
    def neither(self) -> float:
        return max(0.0, 1.0 - self.follow.value - self.stay.value)  # no share is below 0 by rounding


@dataclass(frozen=True)
class Counterfactual:
    """What a change of the question does.

    Attributes:
        original: Accuracy on the questions that have a change.
        changed: Accuracy on the changed questions, with their own latents.
        every: Over all pairs.
        known: Over the pairs of which both questions are answered right; None: there is no such pair.
    """

    original: Mean
    changed: Mean
    every: Transplant
    known: Transplant | None


def measure_counterfactual(
    reasoner: Reasoner, own: Answers, changed: Sequence[Problem | None], settings: EvaluateSection, seed: int
) -> Counterfactual | None:
    """Answers every problem that can be changed with the latents of its changed form.

    Args:
        changed: The problems of `own` with one thing changed; None for one that cannot be.

    Returns:
        None where no problem can be changed.
    """
    rows = [row for row, other in enumerate(changed) if other is not None]
    pairs = [(one, other) for one, other in zip(own.problems, changed, strict=True) if other is not None]
    if not pairs:
        return None
    originals, others = [one for one, _ in pairs], [other for _, other in pairs]
    theirs = answer(reasoner, others, settings)
    mixed = answer(reasoner, originals, settings, theirs.latents)
    follow = is_right(settings.scorer, others, [[text] for text in mixed.texts], reasoner.config.answer_format)[:, 0]
    stay, known = mixed.right, own.right[rows] & theirs.right
    return Counterfactual(
        original=Mean.share(own.right[rows], settings.bootstrap, seed),
        changed=Mean.share(theirs.right, settings.bootstrap, seed),
        every=_transplant(follow, stay, settings, seed),
        known=_transplant(follow[known], stay[known], settings, seed) if known.any() else None,
    )


def _transplant(follow: np.ndarray, stay: np.ndarray, settings: EvaluateSection, seed: int) -> Transplant:
    resamples = settings.bootstrap
    return Transplant(
        Mean.share(follow, resamples, seed),
        Mean.share(stay, resamples, seed),
        Mean.difference(follow.astype(float) - stay, resamples, seed),
    )
