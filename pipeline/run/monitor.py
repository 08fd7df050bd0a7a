"""The monitor of the thoughts of a checkpoint, as a recipe asks for it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ...data.tasks import valid_steps
from ..model.from_text import can_be_read
from ..model.reasoner import Reasoner
from ..recipe.schema import Recipe
from ..scoring.monitor import Monitor
from ..train.text_writer import load_writer
from .finished_stages import run_folder


def monitor_of(recipe: Recipe, reasoner: Reasoner, checkpoint: Path) -> Monitor | None:
    """Reads thoughts where the recipe asks for scores and the checkpoint has latents that can be read.

    The score `logprob` is left out where the checkpoint's run has no finished stage sft.
    """
    section, names = reasoner.config, recipe.evaluate.monitor
    if not names or section.num_latents == 0 or not can_be_read(section.thought_source):
        return None
    run = run_folder(checkpoint) if "logprob" in names else None
    writer = load_writer(run, recipe.model) if run is not None else None
    if writer is None:
        names = tuple(name for name in names if name != "logprob")
    task = recipe.data.eval
    return Monitor(names, partial(valid_steps, task.task, task.options), writer)
