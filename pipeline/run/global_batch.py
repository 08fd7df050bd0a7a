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
from ..recipe.schema import CurriculumSection, Recipe, RLSection
from ..system.files import write_whole
from ..system.processes import on_main
from ..train.hand_over import is_done
from ..train.resume import processes_of_checkpoints
from .folder import is_begun
from .plan import plan

logger = logging.getLogger(__name__)
FILE = "processes.json"
BATCH, ACCUMULATION = "per_device_train_batch_size", "gradient_accumulation_steps"
DRAW, WHOLE_DRAW = "steps_per_generation", "generation_batch_size"  # micro-batches of a process; rollouts of all
CONFIGS: dict[str, type[TrainingArguments]] = {"sft": SFTConfig, "curriculum": TrainingArguments, "rl": GRPOConfig}
MIXED = (
    "%s.train_sampling_strategy=group_by_length orders problems by the batch of a process, which has changed: in this "
    "epoch some problems may be seen twice, and others not."
)


class ProcessesError(UserError):
    """A number of processes that cannot share out the batch of a run."""


def record_processes(folder: Path, processes: int) -> None:
    """Records how many processes a run is begun with, unless it is known."""
    if begun_with(folder) is None:
        write_whole(folder / FILE, json.dumps({"processes": processes}) + "\n")


def begun_with(folder: Path) -> int | None:
    """How many processes the run in a folder was begun with. None if it has trained nothing yet.

    A run of an earlier version has no record. Its checkpoints tell; between two stages nothing depends on the number.
    """
    if not is_begun(folder):
        return None
    file = folder / FILE
    if file.is_file():
        return int(json.loads(file.read_text(encoding="utf-8"))["processes"])
    return processes_of_checkpoints(folder)


def with_global_batch(recipe: Recipe, processes: int) -> Recipe:
    """The recipe for this number of processes, with the batches of those that the run in its folder was begun with.

    Raises:
        ProcessesError: They cannot share out the batch of a stage.
    """

    def look() -> tuple[int | None, bool]:
        return begun_with(recipe.folder), all(is_done(recipe.folder / stage.name) for stage in plan(recipe))

    then, is_finished = on_main(look)
    if then in (None, processes) or is_finished:
        return recipe
    return _shared_out(recipe, then, processes)


def _shared_out(recipe: Recipe, then: int, now: int) -> Recipe:
    sections: dict[str, Any] = {}
    for name, section in recipe.stages.items():
        grain = section.answers_per_thought * (1 + section.antithetic) if isinstance(section, RLSection) else 1
        update = {"trainer": section.trainer | _batch(f"{name}.trainer", section.trainer, then, now, grain)}
        last = section.last_level_trainer if isinstance(section, CurriculumSection) else {}
        if {BATCH, ACCUMULATION} & last.keys():
            both = section.trainer | last
            update["last_level_trainer"] = last | _batch("curriculum.last_level_trainer", both, then, now)
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
    print(f"Begun on {_processes(then)}. The batches of its steps are kept: {', '.join(batches)}")


def _batch(key: str, trainer: dict[str, Any], then: int, now: int, grain: int = 1) -> dict[str, int]:
    """Batch keys of a trainer mapping for another number of processes.

    The problems of an optimizer step and the rollouts of a draw are kept. A process takes as many problems at once as
    before, or as many fewer as it needs to have whole batches.

    Args:
        key: The recipe key of the mapping, such as sft.trainer.
        grain: Rollouts that one process must draw together.

    Raises:
        ProcessesError: They cannot be shared out.
    """
    cls = CONFIGS[key.partition(".")[0]]
    given = {name: value for name, value in trainer.items() if value is not None}
    size, accumulation = (int(given.get(name, getattr(cls, name))) for name in (BATCH, ACCUMULATION))
    step = then * size * accumulation
    draw = given.get(WHOLE_DRAW, then * size * given.get(DRAW, accumulation))
    if step % now or draw % (now * grain):
        fit = [count for count in range(1, step + 1) if step % count == 0 and draw % (count * grain) == 0]
        whole = "" if grain == 1 else f" (and rollouts by {grain}, which are drawn together)"
        raise ProcessesError(
            f"The run was begun on {_processes(then)} with {then} x {size} x {accumulation} = {step} "
            f"problems an optimizer step (processes x {key}.{BATCH} x {ACCUMULATION}), which {now} processes cannot "
            f"share out evenly{whole}. Nothing was changed. Launch one of {_listed(fit)} processes."
        )
    each = math.gcd(step // now, draw // now)
    new = max(count for count in range(1, size + 1) if each % count == 0)
    batch = {BATCH: new, ACCUMULATION: step // (now * new)}
    return batch | ({DRAW: draw // (now * new)} if DRAW in given else {})


def _processes(count: int) -> str:
    return f"{count} process{'es' * (count > 1)}"


def _listed(numbers: list[int]) -> str:
    """Numbers for a message: the first few."""
    return ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")
