"""How the samples of a problem are drawn, and the settings that an evaluation measures a checkpoint under."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from ...data.problem import Problem
from ..evaluate_sections import EvaluateSection, SearchSection
from ..latent.noise import check_fits, parse_noise
from ..reasoner import Reasoner
from .interventions import answer
from .search import Search, check_search
from .thoughts import sensitivity

logger = logging.getLogger(__name__)

# Problems that say where answers hang on the thought most.
SENSITIVE_PROBLEMS = 128


@dataclass(frozen=True)
class Setting:
    """How the samples of a problem are drawn.

    Attributes:
        n: Samples of each problem.
        noise: On the latents, as kind:scale.
        temperature: Of the answer tokens; 0 takes the most likely one.
        answers_per_thought: Answers in a row that share a thought.
        num_latents: Of each thought; None: those of the checkpoint, 0: reason in text.
        search: How the thoughts of a question are found, where they are not drawn apart from each other.
    """

    n: int = 1
    noise: str | None = None
    temperature: float = 0.0
    answers_per_thought: int = 1
    num_latents: int | None = None
    search: Search | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Setting:
        """A setting as the head of its file has it."""
        search = values.get("search")
        return cls(**{**values, "search": None if search is None else Search(tuple(search[0]), search[1])})

    @property
    def has_noise(self) -> bool:
        """Whether the thoughts of a question differ."""
        return parse_noise(self.noise) is not None

    @property
    def is_greedy(self) -> bool:
        """One answer without noise, the most likely tokens."""
        return (self.n, self.noise, self.temperature, self.search) == (1, None, 0.0, None)

    @property
    def name(self) -> str:
        """A file name: greedy, or such as n16-gaussian-0.3-T1."""
        latents = [f"L{self.num_latents}"] if self.num_latents is not None else []
        if self.is_greedy:
            return "-".join(["greedy", *latents])
        noise = [self.noise.replace(":", "-")] if self.noise is not None else []
        shared = [f"m{self.answers_per_thought}"] if self.answers_per_thought > 1 else []
        found = [self.search.name] if self.search is not None else []
        return "-".join([f"n{self.n}", *shared, *latents, *found, *noise, f"T{self.temperature:g}"])


def seeds_of(problems: int, setting: Setting, seed: int) -> list[list[int]]:
    """n seeds for each problem, those of answers that share a thought equal; a search has one."""
    rng = np.random.default_rng(seed)
    if setting.search is not None:
        return rng.integers(2**62, size=(problems, 1)).tolist()
    drawn = rng.integers(2**62, size=(problems, setting.n // setting.answers_per_thought))
    return drawn.repeat(setting.answers_per_thought, 1).tolist()


def settings_of(
    reasoner: Reasoner, options: EvaluateSection, problems: Sequence[Problem], mode: str, judged: bool
) -> list[Setting]:
    """Greedy answers first, then every way to sample and to search that fits the checkpoint, each once.

    Noise and searches are left out where it makes no latents, a tree that would branch at one it does not make, and a
    beam without a latent reward model.

    Args:
        mode: Of the checkpoint, see `Measurement`.
        judged: A latent reward model is at hand.

    Raises:
        NoiseError: Noise that the checkpoint's thought source has no part for.
        SearchError: A search that does not fit the checkpoint.
    """
    is_latent = mode == "latent"
    greedy = Setting(num_latents=options.num_latents if is_latent else None)
    found = [greedy]
    for way in options.sampling:
        if way.noise is None or (is_latent and options.num_latents != 0):
            check_fits("evaluate.sampling", parse_noise(way.noise), reasoner.config.thought_source)
            drawn = replace(greedy, n=options.num_samples, noise=way.noise, temperature=way.temperature)
            found.append(replace(drawn, answers_per_thought=way.answers_per_thought))

    @cache
    def sensitive() -> int:
        return most_sensitive(reasoner, options, problems)

    for section in options.search if is_latent else []:
        if section.kind == "beam" and not judged:
            continue
        check_search(section.noise, reasoner.config, reasoner.model if judged else None)
        at = sensitive() if section.at == "sensitive" else section.at
        if isinstance(at, int) and at > reasoner.config.num_latents:
            made = reasoner.config.num_latents
            logger.warning("evaluate.search: a tree at latent %d is left out: the checkpoint makes %d.", at, made)
            continue
        search = _search(section, at, reasoner.config.num_latents)
        found.append(Setting(search.thoughts, section.noise, section.temperature, search=search))
    return list(dict.fromkeys(found))


def _search(section: SearchSection, at: int | str | None, num_latents: int) -> Search:
    if section.kind == "beam":
        assert section.width is not None
        return Search.beam(section.width, section.children, num_latents)
    return Search.tree(section.children, at if isinstance(at, int) else None, num_latents)


def most_sensitive(reasoner: Reasoner, options: EvaluateSection, problems: Sequence[Problem]) -> int:
    """The latent, from 1, that a small change of moves the model's own answers most (`thoughts.sensitivity`)."""
    norms = sensitivity(reasoner, answer(reasoner, problems[:SENSITIVE_PROBLEMS], options))
    assert norms is not None
    return int(norms.argmax()) + 1
