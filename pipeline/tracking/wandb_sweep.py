"""W&B sweeps: which of the runs of a recipe is the trial that the agent waits for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from ..recipe.schema import Recipe

VARIABLES = ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH")


def trial_stage(recipe: Recipe) -> str:
    """The stage whose run is the trial: the last one of a recipe, on which its metric is measured."""
    return list(recipe.stages)[-1]


@contextmanager
def within_sweep(recipe: Recipe, stage: str) -> Iterator[None]:
    """A stage's run is begun inside: as the trial of the sweep, or, of other stages, as a run beside it.

    In a sweep W&B takes every run for the trial, whatever id it is begun with. So the agent's variables are hidden from
    all runs but one. Without a sweep this does nothing.
    """
    if "WANDB_SWEEP_ID" not in os.environ:
        yield
        return
    import wandb

    wandb.teardown()  # it has read the variables as an earlier run began
    is_trial = stage == trial_stage(recipe)
    hidden = {} if is_trial else {name: os.environ.pop(name) for name in VARIABLES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)
