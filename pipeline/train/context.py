"""What every stage of a run is given."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ...data.problem import Problem
from ..problems.encode import Encoded
from ..problems.load import fingerprint
from ..recipe.schema import Recipe
from ..tracking.tracker import Tracker


@dataclass
class Context:
    """What every stage of a run is given.

    Attributes:
        folder: The run folder.
        train: Training problems.
        encoded: `train` as tokens, in the same order.
        held_out: Training problems kept apart to measure on while training.
        evaluation: Problems that the run is measured on at its end.
        resume: Go on from the last checkpoint of an unfinished stage.
    """

    recipe: Recipe
    folder: Path
    train: list[Problem]
    encoded: list[Encoded]
    held_out: list[Problem]
    evaluation: list[Problem]
    tracker: Tracker
    resume: bool

    @cached_property
    def training_data(self) -> str:
        """Fingerprint of the training problems: their number and a hash."""
        return fingerprint(self.train)
