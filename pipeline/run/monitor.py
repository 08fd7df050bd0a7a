"""The monitor of the thoughts of a checkpoint, as a recipe asks for it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from accelerate import PartialState

from ...data.tasks import valid_steps
from ..model.from_text import can_be_read
from ..model.load import load_reasoner
from ..model.reasoner import Reasoner
from ..recipe.schema import Recipe
from ..scoring.monitor import Monitor
from ..train.hand_over import is_done
from .finished_stages import run_folder


def monitor_of(recipe: Recipe, reasoner: Reasoner, checkpoint: Path) -> Monitor | None:
    """Reads thoughts where the recipe asks for scores and the checkpoint has latents that can be read.

    The score `logprob` is left out where the checkpoint's run has no finished stage sft.
    """
    section, names = reasoner.config, recipe.evaluate.monitor
    if not names or section.num_latents == 0 or not can_be_read(section.thought_source):
        return None
    writer, run = None, run_folder(checkpoint) if "logprob" in names else None
    if run is not None and is_done(run / "sft"):
        writer = load_reasoner(
            run / "sft" / "final", trust_remote_code=recipe.model.trust_remote_code, dtype=recipe.model.dtype
        )
        writer.model.to(PartialState().device)
    else:
        names = tuple(name for name in names if name != "logprob")
    task = recipe.data.eval
    return Monitor(names, partial(valid_steps, task.task, task.options), writer)
