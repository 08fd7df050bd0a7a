"""A run that goes on under another number of processes: its optimizer steps keep their batch.

The batches of a recipe are per process, as in TRL. A run records how many processes it was begun with; under another
number each process takes more or fewer problems a step, so that all of them together take as many, in the same order.
"""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainingArguments
from trl import GRPOConfig, SFTConfig

from ...data.errors import UserError
from ..recipe.schema import Recipe
from ..system.files import write_whole
from ..system.processes import on_main
from .folder import is_begun

logger = logging.getLogger(__name__)
FILE = "processes.json"
MIXED = (
    "%s.train_sampling_strategy=group_by_length orders problems by the batch of a process, which has changed: in this "
    "epoch some problems may be seen twice, and others not."
)
BATCH, ACCUMULATION = "per_device_train_batch_size", "gradient_accumulation_steps"


class ProcessesError(UserError):
    """A number of processes that cannot share out the batch of a run."""


def with_global_batch(recipe: Recipe, processes: int) -> Recipe:
    """The recipe for this number of processes, with the batches of those that the run in its folder was begun with.

    Raises:
        ProcessesError: They cannot share out the batch of a stage.
    """
    then = on_main(lambda: _begun_with(recipe.folder, processes))
    return recipe if then == processes else _shared_out(recipe, then, processes)


def _begun_with(folder: Path, processes: int) -> int:
    file = folder / FILE
    if is_begun(folder) and file.is_file():  # a run of an earlier version has none: its checkpoints tell
        return int(json.loads(file.read_text(encoding="utf-8"))["processes"])
    write_whole(file, json.dumps({"processes": processes}) + "\n")
    return processes


def _shared_out(recipe: Recipe, then: int, now: int) -> Recipe:
    sections: dict[str, Any] = {}
    for name, cls in (("sft", SFTConfig), ("curriculum", TrainingArguments), ("rl", GRPOConfig)):
        section = getattr(recipe, name)
        if section is None:
            continue
        update = {"trainer": section.trainer | _batch(f"{name}.trainer", cls, section.trainer, then, now)}
        last = section.last_level_trainer if name == "curriculum" else {}
        if {BATCH, ACCUMULATION} & last.keys():
            both = section.trainer | last
            update["last_level_trainer"] = last | _batch("curriculum.last_level_trainer", cls, both, then, now)
        sections[name] = section.model_copy(update=update)
    if PartialState().is_main_process:
        _announce(sections, then, now)
    return recipe.model_copy(update=sections)


def _announce(sections: dict[str, Any], then: int, now: int) -> None:
    batches = []
    for name, section in sections.items():
        trainer = section.trainer
        batches.append(f"{name} {now} x {trainer[BATCH]} x {trainer[ACCUMULATION]}")
        if trainer.get("train_sampling_strategy") == "group_by_length":
            logger.warning(MIXED, f"{name}.trainer")
    was = f"Begun on {then} process{'es' * (then > 1)}"
    print(f"{was}. The batches of its steps are kept: {', '.join(batches)}")


def _batch(key: str, cls: type[TrainingArguments], trainer: dict[str, Any], then: int, now: int) -> dict[str, int]:
    """Batch keys of a trainer mapping for another number of processes.

    The problems of an optimizer step and the rollouts of a draw (`steps_per_generation`) are kept. A process takes as
    many problems at once as before, or as many fewer as it needs to have whole batches.

    Raises:
        ProcessesError: They cannot be shared out.
    """
    size, accumulation = (int(trainer.get(name, getattr(cls, name))) for name in (BATCH, ACCUMULATION))
    draw = trainer.get("steps_per_generation")
    units = math.gcd(then * size * accumulation, then * size * (draw or accumulation))
    if units % now:
        total = then * size * accumulation
        raise ProcessesError(
            f"The run was begun on {then} process{'es' * (then > 1)} with {then} x {size} x {accumulation} = {total} "
            f"problems an optimizer step (processes x {key}.{BATCH} x {ACCUMULATION}), which {now} processes cannot "
            f"share out evenly. Nothing was changed. Launch one of {_listed(units)} processes."
        )
    each = units // now
    new = max(count for count in range(1, size + 1) if each % count == 0)
    batch = {BATCH: new, ACCUMULATION: then * size * accumulation // (now * new)}
    return batch | ({"steps_per_generation": then * size * draw // (now * new)} if draw is not None else {})


def _listed(units: int) -> str:
    """The numbers of processes that divide a batch, for a message: the first few."""
    numbers = [str(count) for count in range(1, units + 1) if units % count == 0]
    return ", ".join(numbers[:8]) + (", ..." if len(numbers) > 8 else "")
