"""DeepSpeed's checkpoints in their universal form, which any number of processes can read.

Lian et al., Universal Checkpointing: Efficient and Flexible Checkpointing for Large Scale Distributed Training, 2024
(arXiv 2406.18820).
"""

from __future__ import annotations

import contextlib
import io
import logging
from argparse import Namespace
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import Tensor
from transformers import Trainer, TrainerCallback

from ..system.files import check_room, size_of
from ..system.integrity import flush
from ..system.processes import on_main
from .resume import LATEST, UNIVERSAL, CheckpointError

logger = logging.getLogger(__name__)


class OwnStepsCallback(TrainerCallback):
    """Gives each parameter's optimizer state a step counter of its own.

    DeepSpeed 0.19 restores one tensor for all under ZeRO-3; torch's optimizers would advance it once a parameter.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        inner = getattr(optimizer, "optimizer", optimizer)  # AcceleratedOptimizer
        inner = getattr(inner, "optimizer", inner)  # DeepSpeed's
        for values in inner.state.values():
            if isinstance(values.get("step"), Tensor):
                values["step"] = values["step"].clone()


def load_universal(trainer: Trainer, checkpoint: Path) -> None:
    """Makes a DeepSpeed checkpoint of another number of processes fit to be resumed from by this trainer.

    The main process merges the parts of the optimizer's state, once, beside them. What a killed merge left was removed
    as the checkpoint was looked through.

    Raises:
        CheckpointError: DeepSpeed cannot restore it for another number of processes.
        PlaceError: The disk has no room for the merge.
    """
    if trainer.accelerator.state.deepspeed_plugin.zero_stage == 3:
        _check_zero3(trainer, checkpoint)
    on_main(lambda: _merge(checkpoint))
    trainer.accelerator.state.deepspeed_plugin.deepspeed_config["checkpoint"] = {"load_universal": True}
    trainer.add_callback(OwnStepsCallback())


def _check_zero3(trainer: Trainer, checkpoint: Path) -> None:
    """Refuses what DeepSpeed's universal form gets wrong under ZeRO-3."""
    decay = trainer.args.weight_decay
    is_frozen = not all(weight.requires_grad for weight in trainer.model.parameters())
    if decay:
        why = f"weight_decay={decay}, which DeepSpeed would restore for all parameters, also biases and norms"
    elif is_frozen and not isinstance(trainer.model, PeftModel):  # whose frozen weights are in no checkpoint
        why = "frozen weights, which DeepSpeed cannot split anew"
    else:
        return
    raise CheckpointError(
        f"{checkpoint} was made by another number of processes under ZeRO-3 with {why}. Nothing was changed. Launch as "
        "many processes as before."
    )


def _merge(checkpoint: Path) -> None:
    from deepspeed.checkpoint import ds_to_universal  # an extra, and slow

    if (checkpoint / f"{LATEST}{UNIVERSAL}").is_file():
        return
    parts = checkpoint / (checkpoint / LATEST).read_text(encoding="utf-8").strip()
    whole = parts.with_name(f"{parts.name}{UNIVERSAL}")
    check_room(checkpoint, 2 * size_of(parts), "the optimizer's state in whole")  # fragments, and what is made of them
    logger.warning("%s was written by another number of processes. DeepSpeed merges its parts beside it.", parts)
    arguments = Namespace(
        input_folder=str(parts),
        output_folder=str(whole),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        ds_to_universal.main(arguments)
    flush(checkpoint)
