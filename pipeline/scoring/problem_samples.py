"""The samples of one problem, as an evaluation keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...data.answer_formats import HASH
from ...data.conversation import as_json, as_question
from ...rewards.answers import extract_answer
from ...rewards.score import is_high
from .sample_files import SamplesError, read_samples


@dataclass(frozen=True)
class Sampled:
    """The samples of one problem, n of each.

    Attributes:
        texts: Answers without special tokens.
        scores: One for each answer; None where the scorer gave none.
        logprobs: Log-prob of each answer in nats, summed over its tokens.
        tokens: Number of tokens of each answer.
        latents: Number of latents of each thought.
        latents_made: Latents made for all samples together. Answers may share a thought, and a search gives up
            latents that it has made.
        seeds: `Reasoner.generate(..., seeds=...)` makes the same samples again. A search has one seed.
        latent_rewards: Latent reward of each thought, if a latent reward model was at hand.
        thought: What is read in each block of the thought that the model has without noise, where a monitor read it.
        monitored: The monitor's scores of it by name, see `ReadThought`.
        answer_format: How the answers are announced, see `extract_answer`.
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
    thought: list[str] | None = None
    monitored: dict[str, float | None] | None = None
    answer_format: str = HASH.name

    @classmethod
    def read(cls, path: Path) -> tuple[dict[str, Any], list[Sampled]]:
        """The head of a file, which says how it was sampled, and the samples in the order of their problems.

        Raises:
            SamplesError: It holds none, or was written by another version.
        """
        head, rows = read_samples(path)
        if not rows:
            raise SamplesError(f"{path} holds no samples.")
        return head, [cls.from_dict(rows[place]) for place in sorted(rows)]

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Sampled:
        """The samples of a row of a file."""
        question = row["question"]
        return cls(**{**row, "question": as_question(question, "samples") if isinstance(question, list) else question})

    def to_dict(self) -> dict[str, Any]:
        """The row of a file."""
        return {**asdict(self), "question": as_json(self.question)}

    @property
    def right(self) -> np.ndarray:
        """(n,) whether each answer is right."""
        return np.array([is_high(score) for score in self.scores])

    @property
    def answers(self) -> list[str]:
        """The answers, extracted and normalised, for majorities to count."""
        return [extract_answer(text, self.answer_format) for text in self.texts]
