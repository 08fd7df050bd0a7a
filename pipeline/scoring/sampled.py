"""The samples of one problem, as an evaluation keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...rewards.answers import extract_answer
from ...rewards.score import is_high
from ..scoring.sample_files import SamplesError, read_samples


@dataclass(frozen=True)
class Sampled:
    """The samples of one problem, n of each.

    Attributes:
        texts: Answers without special tokens.
        scores: Of the scorer; None where it gave none.
        logprobs: In nats, each summed over its answer's tokens.
        tokens: Tokens of each answer.
        latents: Latents of each thought.
        latents_made: For all of them: answers may share a thought, and a search makes latents that it gives up.
        seeds: `Reasoner.generate(..., seeds=...)` makes the same samples again; of a search: the one it began from.
        latent_rewards: Of the thoughts, where a latent reward model was at hand.
    """

    question: str
    texts: list[str]
    scores: list[float | None]
    logprobs: list[float]
    tokens: list[int]
    latents: list[int]
    latents_made: int
    seeds: list[int]
    latent_rewards: list[float] | None = None

    @classmethod
    def read(cls, path: Path) -> tuple[dict[str, Any], list[Sampled]]:
        """What a file was sampled from, and its samples in the order of their problems.

        Raises:
            SamplesError: It holds none, or was written by another version.
        """
        head, rows = read_samples(path)
        if not rows:
            raise SamplesError(f"{path} holds no samples.")
        return head, [cls(**rows[place]) for place in sorted(rows)]

    @property
    def right(self) -> np.ndarray:
        """(n,) whether each answer is right."""
        return np.array([is_high(score) for score in self.scores])

    @property
    def answers(self) -> list[str]:
        """What majorities count: the answers, extracted and normalised."""
        return [extract_answer(text) for text in self.texts]
