"""DeepSpeed's checkpoints in their universal form, which any number of processes can read.

Lian et al., Universal Checkpointing: Efficient and Flexible Checkpointing for Large Scale Distributed Training, 2024
(arXiv 2406.18820).
"""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import Trainer, TrainerCallback

from ..system.files import check_room, size_of
from ..system.processes import on_main
from .resume import LATEST, CheckpointError

logger = logging.getLogger(__name__)
LATEST_UNIVERSAL = "latest_universal"  # names the folder of the universal form; DeepSpeed writes it last


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

    The main process merges the parts of the optimizer's state, once, beside them. What a killed merge left is made
    anew.

    Raises:
        CheckpointError: ZeRO-3 with a weight decay, which DeepSpeed would restore for all parameters.
        PlaceError: The disk has no room for them.
    """
    if trainer.args.weight_decay and trainer.accelerator.state.deepspeed_plugin.zero_stage == 3:
        raise CheckpointError(
            f"{checkpoint} was made by another number of processes under ZeRO-3 with weight_decay="
            f"{trainer.args.weight_decay}. DeepSpeed would restore it for all parameters, also biases and norms, which "
            "have none. Nothing was changed. Launch as many processes as before."
        )
    on_main(lambda: _merge(checkpoint))
    trainer.accelerator.state.deepspeed_plugin.deepspeed_config["checkpoint"] = {"load_universal": True}
    trainer.add_callback(OwnStepsCallback())


def _merge(checkpoint: Path) -> None:
    from deepspeed.checkpoint import ds_to_universal  # an extra, and slow

    if (checkpoint / LATEST_UNIVERSAL).is_file():
        return
    parts = checkpoint / (checkpoint / LATEST).read_text(encoding="utf-8").strip()
    whole = parts.with_name(f"{parts.name}_universal")
    shutil.rmtree(whole, ignore_errors=True)
    check_room(checkpoint, size_of(parts), "the optimizer's state in whole")
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
