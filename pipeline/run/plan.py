"""The stages that a recipe asks for, in the order they are trained in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..recipe.load import RecipeError
from ..recipe.schema import Recipe
from ..train.context import Context
from ..train.curriculum.arms import ARMS
from ..train.curriculum.stage import train_curriculum
from ..train.rl.stage import train_rl
from ..train.sft import train_sft

# Every stage that a run may have, by the name of its folder. Controls have the names of their arms.
STAGES = ("sft", "curriculum", "rl", *ARMS)


@dataclass(frozen=True)
class PlannedStage:
    """A stage of a run.

    Attributes:
        name: Also the name of its folder.
        after: The stage whose weights it starts from, or `base`.
        train: Trains it: context, starting weights, folder.
    """

    name: str
    after: str
    train: Callable[[Context, str | Path, Path], None]


def plan(recipe: Recipe) -> list[PlannedStage]:
    """The stages of a recipe, in the order they are trained in. Controls come last.

    Raises:
        RecipeError: The recipe has none.
    """
    planned: list[PlannedStage] = []
    last = "base"
    for name, is_on, train in (
        ("sft", recipe.sft is not None, train_sft),
        ("curriculum", recipe.curriculum is not None and recipe.controls.latent, train_curriculum),
        ("rl", recipe.rl is not None, train_rl),
    ):
        if is_on:
            planned.append(PlannedStage(name, last, train))
            last = name
    for name in recipe.controls.chosen:
        after = ARMS[name].after
        if after == "sft" and recipe.sft is None:
            after = "base"
        planned.append(PlannedStage(name, after, partial(train_curriculum, arm=name)))
    if not planned:
        raise RecipeError("The recipe has no stage. Give it at least one of sft, curriculum and rl.")
    return planned
