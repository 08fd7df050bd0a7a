"""How the samples of a problem are drawn: a setting, and the search among thoughts that it may name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from ...data.errors import UserError
from ..latent.noise import parse_noise

ADDED = ("loops", "thought")  # fields of a setting that came after files of samples were first written
MOST = 4096  # thoughts of one question that may grow at once, since they share a batch


class SearchError(UserError):
    """A search that cannot be made among the thoughts of a model."""


class Search(NamedTuple):
    """How the thoughts of a question grow.

    Attributes:
        children: (L,) children of each thought at each latent.
        keep: Thoughts that go on after each latent: those with the highest latent rewards; None: all.
    """

    children: tuple[int, ...]
    keep: int | None = None

    @classmethod
    def beam(cls, width: int, children: int, num_latents: int) -> Search:
        """At every latent, `width` thoughts are kept of width · children.

        Raises:
            SearchError: More thoughts at once than `MOST`.
        """
        return cls((width * children, *[children] * (num_latents - 1)), width)._checked()

    @classmethod
    def tree(cls, children: int, at: int | None, num_latents: int) -> Search:
        """Branches at latent `at`, counted from 1, or with None at each latent.

        Raises:
            SearchError: More thoughts at once than `MOST`.
        """
        return cls(tuple(children if at in (None, latent) else 1 for latent in range(1, num_latents + 1)))._checked()

    def _checked(self) -> Search:
        if max(self.widths) > MOST:
            raise SearchError(
                f"The search {self.name} grows {max(self.widths)} thoughts of a question at once, more than {MOST}. "
                "Lower children or width, or let a tree branch at one latent."
            )
        return self

    @property
    def widths(self) -> list[int]:
        """(L,) thoughts of a question at each latent, which is also the number of latents that are made there."""
        widths, width = [], 1
        for children in self.children:
            widths.append(width * children)
            width = widths[-1] if self.keep is None else min(widths[-1], self.keep)
        return widths

    @property
    def thoughts(self) -> int:
        """Thoughts of a question at the end. Each gets an answer."""
        return self.widths[-1] if self.keep is None else min(self.widths[-1], self.keep)

    @property
    def name(self) -> str:
        """Short name, such as beam4x4, tree-16at2 or tree-2each."""
        if self.keep is not None:
            return f"beam{self.keep}x{self.children[0] // self.keep}"
        at = [latent for latent, children in enumerate(self.children, 1) if children > 1]
        return f"tree-{max(self.children)}at{at[0]}" if len(at) == 1 else f"tree-{max(self.children)}each"


@dataclass(frozen=True)
class Setting:
    """How the samples of a problem are drawn.

    Attributes:
        n: Samples of each problem.
        noise: On the latents, as kind:scale.
        temperature: Of the answer tokens; 0 takes the most likely one.
        answers_per_thought: Answers in a row that share a thought.
        num_latents: Latents of each thought; None: as many as the checkpoint has; 0: reason in text.
        search: The search that finds the thoughts of a question; None: they are drawn independently.
        loops: Loops of looped latents; None: as many as the checkpoint has.
        thought: `as_text`: answers are given from what is read of the thought alone; None: from its latents.
    """

    n: int = 1
    noise: str | None = None
    temperature: float = 0.0
    answers_per_thought: int = 1
    num_latents: int | None = None
    search: Search | None = None
    loops: int | None = None
    thought: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """For the head of a file of samples. What is not set is left out, as in files from before it existed."""
        return {key: value for key, value in asdict(self).items() if key not in ADDED or value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Setting:
        """Reads a setting from the head of a file of samples."""
        search = values.get("search")
        return cls(**{**values, "search": None if search is None else Search(tuple(search[0]), search[1])})

    @property
    def has_noise(self) -> bool:
        """Whether there is noise, so that thoughts of a question differ."""
        return parse_noise(self.noise) is not None

    @property
    def is_greedy(self) -> bool:
        """Whether it is one answer of most likely tokens, without noise."""
        return (self.n, self.noise, self.temperature, self.search) == (1, None, 0.0, None)

    @property
    def name(self) -> str:
        """Name of the file of samples: greedy, or such as n16-gaussian-0.3-T1."""
        latents = [f"L{self.num_latents}"] if self.num_latents is not None else []
        latents += [f"R{self.loops}"] if self.loops is not None else []
        latents += ["text"] if self.thought is not None else []
        if self.is_greedy:
            return "-".join(["greedy", *latents])
        noise = [self.noise.replace(":", "-")] if self.noise is not None else []
        shared = [f"m{self.answers_per_thought}"] if self.answers_per_thought > 1 else []
        found = [self.search.name] if self.search is not None else []
        return "-".join([f"n{self.n}", *shared, *latents, *found, *noise, f"T{self.temperature:g}"])


def seeds_of(problems: int, setting: Setting, seed: int) -> list[list[int]]:
    """n seeds for each problem. Answers that share a thought have equal seeds. A search has one seed."""
    rng = np.random.default_rng(seed)
    if setting.search is not None:
        return rng.integers(2**62, size=(problems, 1)).tolist()
    drawn = rng.integers(2**62, size=(problems, setting.n // setting.answers_per_thought))
    return drawn.repeat(setting.answers_per_thought, 1).tolist()
