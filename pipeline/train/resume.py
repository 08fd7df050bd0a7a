"""Checkpoints of an unfinished stage: which one training resumes from, and under which launch that is allowed."""

from __future__ import annotations

import json
import logging
import math
import shutil
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import ExportableState

from ...data.errors import UserError
from ..system.integrity import fault_in, flush
from ..system.processes import on_main

logger = logging.getLogger(__name__)
STATE = "trainer_state.json"
LATEST = "latest"  # names the folder of DeepSpeed's files in a checkpoint
UNIVERSAL = "_universal"  # the end of the names of its universal form: of its folder, and of what names that
BATCH = "problems an optimizer step (processes x per_device_train_batch_size x gradient_accumulation_steps)"


class CheckpointError(UserError):
    """A checkpoint that training cannot resume from."""


@dataclass(frozen=True)
class Launch:
    """What a checkpoint depends on besides the recipe.

    A resume must have the same, but that another number of processes may share out the same batch.

    Attributes:
        processes: On all machines.
        backend: "none" or the DeepSpeed stage. DDP counts as none: it leaves the same files as one process.
        gpus_per_process: More than one under torch's DataParallel, 0 on CPU.
        training_data: Fingerprint of the training problems, whose file may have changed.
    """

    processes: int
    backend: str
    gpus_per_process: int
    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    training_data: str

    @classmethod
    def of(cls, trainer: Trainer, training_data: str) -> Launch:
        """The launch that a trainer runs under."""
        args, state = trainer.args, trainer.accelerator.state
        zero = state.deepspeed_plugin.zero_stage if trainer.is_deepspeed_enabled else None
        return cls(
            processes=args.world_size,
            backend="none" if zero is None else f"DeepSpeed ZeRO-{zero}",
            gpus_per_process=args.n_gpu,
            per_device_train_batch_size=args.per_device_train_batch_size,
            gradient_accumulation_steps=args.gradient_accumulation_steps,
            training_data=training_data,
        )

    @property
    def is_deepspeed(self) -> bool:
        """Whether DeepSpeed writes the optimizer's state, in its own files."""
        return self.backend != "none"

    @property
    def conditions(self) -> dict[str, Any]:
        """What a resume must have alike, by what a message calls it."""
        batch = (self.processes, max(1, self.gpus_per_process), self.per_device_train_batch_size)
        return {
            "backend": self.backend,
            "gpus_per_process": self.gpus_per_process,
            BATCH: math.prod(batch) * self.gradient_accumulation_steps,
            "training_data": self.training_data,
        }

    @property
    def shards(self) -> int:
        """Number of files that DeepSpeed splits the optimizer's state into."""
        return 0 if self.backend in ("none", "DeepSpeed ZeRO-0") else self.processes


class LaunchCallback(TrainerCallback, ExportableState):
    """Records the launch in the state file of every checkpoint, and flushes checkpoints to the disk."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": asdict(self.launch)}

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        PartialState().wait_for_everyone()  # each process writes a file
        on_main(lambda: flush(Path(args.output_dir) / f"checkpoint-{state.global_step}"))


def checkpoint_to_resume(folder: Path, launch: Launch) -> Path | None:
    """The checkpoint that an unfinished stage resumes from. None if no whole one is there.

    Raises:
        CheckpointError: It was made under another launch, or from other data.
    """
    checkpoint = last_whole_checkpoint(folder)
    if checkpoint is None:
        return None
    then, now = _launch_of(checkpoint).conditions, launch.conditions
    differs = [f"{key}: {then[key]} then, {now[key]} now" for key in now if key in then and then[key] != now[key]]
    if differs:
        raise CheckpointError(
            f"{checkpoint} was made under other conditions: {'; '.join(differs)}. Nothing was changed. Restore them, "
            f"or delete the checkpoints in {folder}, and this stage begins anew; finished stages are kept."
        )
    return checkpoint


def is_split_otherwise(checkpoint: Path, launch: Launch) -> bool:
    """Whether DeepSpeed split the optimizer's state over another number of processes."""
    then = _launch_of(checkpoint)
    return then.shards > 0 and then.processes != launch.processes


def processes_of_checkpoints(run: Path) -> int | None:
    """How many processes trained what a run folder has a checkpoint of. None without a checkpoint that tells."""
    for state in sorted((*run.glob(f"*/checkpoint-*/{STATE}"), *run.glob(f"*/*/checkpoint-*/{STATE}"))):
        try:
            return _launch_of(state.parent).processes
        except (CheckpointError, ValueError, KeyError):  # torn, or of a version that the resume will name
            continue
    return None


def last_whole_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint. Newer ones, torn by a kill or a power cut, are removed with a warning.

    Raises:
        CheckpointError: It does not record its launch.
    """
    return on_main(lambda: _without_torn(folder))


def _without_torn(folder: Path) -> Path | None:
    for checkpoint in _newest_first(folder):
        _remove_torn_merge(checkpoint)
        fault = fault_of_checkpoint(checkpoint)
        if fault is None:
            return checkpoint
        shutil.rmtree(checkpoint)
        left = _newest_first(folder)
        goes_on = f"Training goes on from {left[0].name}, if that is whole." if left else "The stage begins anew."
        logger.warning("%s is not whole (%s) and was removed. %s", checkpoint, fault, goes_on)
    return None


def _remove_torn_merge(checkpoint: Path) -> None:
    """Removes a universal form that was not finished, or has a fault. It is made again from the parts beside it."""
    for merged in checkpoint.glob(f"*{UNIVERSAL}"):
        if not (checkpoint / f"{LATEST}{UNIVERSAL}").is_file() or fault_in(merged) is not None:
            (checkpoint / f"{LATEST}{UNIVERSAL}").unlink(missing_ok=True)
            if merged.is_dir():
                shutil.rmtree(merged)


def _newest_first(folder: Path) -> list[Path]:
    """The checkpoints of a folder by optimizer step, the latest first."""
    steps = {path: path.name.removeprefix("checkpoint-") for path in folder.glob("checkpoint-*")}
    return sorted((path for path in steps if steps[path].isdigit()), key=lambda path: int(steps[path]), reverse=True)


def _launch_of(checkpoint: Path) -> Launch:
    """The launch that a checkpoint was made under.

    Raises:
        CheckpointError: It does not record one.
    """
    recorded = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))["stateful_callbacks"]
    attributes = recorded.get(LaunchCallback.__name__, {}).get("attributes", {})
    if attributes.keys() != {field.name for field in fields(Launch)}:
        raise CheckpointError(
            f"{checkpoint} does not say under which launch it was made; another version of this program wrote it. "
            f"Go on with that version, or delete {checkpoint}, and this stage begins anew; finished stages are kept."
        )
    return Launch(**attributes)


def fault_of_checkpoint(checkpoint: Path) -> str | None:
    """What is wrong with the files of a checkpoint, in words. None if they are whole.

    Missing files count: without them the Trainer would silently go on with a fresh optimizer or another random state.

    Raises:
        CheckpointError: The checkpoint does not record its launch.
    """
    if not (checkpoint / STATE).is_file():  # the Trainer writes it last
        return f"{STATE} is missing"
    fault = fault_in(checkpoint)
    if fault is not None:
        return fault
    launch = _launch_of(checkpoint)
    ranks = range(launch.processes)
    needed = ["rng_state.pth"] if launch.processes == 1 else [f"rng_state_{rank}.pth" for rank in ranks]
    if not launch.is_deepspeed:
        needed += ["optimizer.pt", "scheduler.pt"]
    for name in needed:
        if not (checkpoint / name).is_file():
            return f"{name} is missing"
    return _missing_shards(checkpoint, launch.shards) if launch.is_deepspeed else _missing_weights(checkpoint)


def _missing_shards(checkpoint: Path, count: int) -> str | None:
    """What is missing of the `count` files of DeepSpeed, in the folder that the file `LATEST` names. None: nothing."""
    latest = checkpoint / LATEST
    folder = checkpoint / latest.read_text(encoding="utf-8").strip() if latest.is_file() else None
    if folder is None or not folder.is_dir():
        return "the folder of DeepSpeed's files is missing"
    found = len(list(folder.glob("*optim_states.pt")))
    return f"of {count} parts of the optimizer's state {found} are there" if found < count else None


def _missing_weights(checkpoint: Path) -> str | None:
    """A missing file of weights, in words. None if all are there."""
    for index in checkpoint.glob("*.safetensors.index.json"):
        for name in sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())):
            if not (checkpoint / name).is_file():
                return f"{name} is missing"
    return None if list(checkpoint.rglob("*.safetensors")) else "the weights are missing"
