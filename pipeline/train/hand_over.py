"""The end of every stage: training, then its weights in `final/`, which the next stage starts from."""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import PartialState
from peft import PeftModel
from transformers import PrinterCallback, Trainer
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from ..latent.engine.quantized import full_size
from ..model.reasoner import Reasoner
from ..system.compat import reset_accelerator_state, set_collective_timeout
from ..system.files import check_room, follow_umask
from ..system.integrity import flush
from ..system.sigterm import sigterm_noted
from .callbacks import NoLastCheckpointCallback, ProgressCallback, TimeoutCallback, UmaskCallback
from .context import Context
from .lora import merge_adapter, thin_frozen
from .resume import Launch, LaunchCallback, checkpoint_to_resume, is_split_otherwise
from .termination import SaveAndEndCallback, SavedAndTerminatedError, on_any_process
from .universal import load_universal

Report = Callable[[Trainer], dict[str, Any]]
REPORT = "report.json"


def is_done(folder: Path) -> bool:
    """Whether a stage or a visit of a level is finished. `final` is renamed into place, so it is whole or absent."""
    return (folder / "final").is_dir()


def train_and_hand_over(
    trainer: Trainer,
    context: Context,
    reasoner: Reasoner,
    base: str | Path,
    folder: Path,
    report: Report | None = None,
    save_every: int = 1,
) -> None:
    """Trains and leaves `folder/final`, with a LoRA merged. With `context.resume` the last checkpoint is gone on from.

    Args:
        base: Where the stage's starting weights were loaded from. A LoRA is merged into these.
        report: Called after training. Its result is kept as `final/report.json`.
        save_every: Optimizer steps. A resume is exact only from checkpoints at multiples of this many.

    Raises:
        SavedAndTerminatedError: After SIGTERM. There is a checkpoint of the last step, or `final/` if that was the end.
        CheckpointError: The checkpoint to resume from was made under another launch, or from other data.
        PlaceError: The disk has no room for the weights.
    """
    check_room(context.folder, full_size(trainer.model))
    # DeepSpeed takes weights of one dtype only.
    if isinstance(trainer.model, PeftModel) and not trainer.is_deepspeed_enabled:
        thin_frozen(reasoner.model)
    with sigterm_noted() as received:
        _train(trainer, context, folder, SaveAndEndCallback(received, save_every))
        _leave_final(trainer, context, reasoner, base, folder, report)
        if on_any_process(received()):
            raise SavedAndTerminatedError(f"{folder / 'final'} was saved.")


def _leave_final(
    trainer: Trainer, context: Context, reasoner: Reasoner, base: str | Path, folder: Path, report: Report | None
) -> None:
    """Leaves the weights of a Trainer in `folder/final`, and frees the Trainer."""
    is_adapter = isinstance(trainer.model, PeftModel)
    state = PartialState()
    partial = folder / "final.partial"
    if state.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
    state.wait_for_everyone()
    trainer.save_model(str(partial))  # on all processes: ZeRO-3 gathers here
    section, has_value_head = reasoner.config, reasoner.model.value_head is not None
    supervised = reasoner.model.supervision is not None
    text = json.dumps(report(trainer)) if report is not None else None
    release(trainer)
    if state.is_main_process:
        if is_adapter:
            merge_adapter(base, partial, section, reasoner.tokenizer, context.recipe, supervised, has_value_head)
        if text is not None:
            (partial / REPORT).write_text(text, encoding="utf-8")
        reasoner.tokenizer.save_pretrained(partial)
        _rename_to_final(partial)
    state.wait_for_everyone()


def _train(trainer: Trainer, context: Context, folder: Path, save_and_end: SaveAndEndCallback) -> None:
    """Runs a Trainer with the callbacks of all stages, from the last checkpoint in `folder` where that is asked for."""
    launch = Launch.of(trainer, context.training_data)
    set_collective_timeout(trainer.args.ddp_timeout)
    trainer.remove_callback(PrinterCallback)  # the progress bar and metrics.jsonl replace it
    callbacks = (NoLastCheckpointCallback(), UmaskCallback(), TimeoutCallback(), LaunchCallback(launch), save_and_end)
    for callback in callbacks:
        trainer.add_callback(callback)
    checkpoint = checkpoint_to_resume(folder, launch) if context.resume else None
    if checkpoint is not None and is_split_otherwise(checkpoint, launch):
        load_universal(trainer, checkpoint)
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    finally:
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, ProgressCallback):
                callback.progress.stop()


def _rename_to_final(partial: Path) -> None:
    """Renames a folder of weights to `final` once it is on the disk, and removes the checkpoints beside it."""
    folder = partial.parent
    (partial / "training_args.bin").unlink(missing_ok=True)  # a pickle that nothing reads
    follow_umask(partial)
    flush(folder)  # before the checkpoints are removed
    partial.rename(folder / "final")
    for old in folder.glob("checkpoint-*"):
        shutil.rmtree(old)


def release(trainer: Trainer) -> None:
    """Frees a Trainer and the process-wide state it set, so that the next stage starts from nothing."""
    trainer.accelerator.free_memory()
    trainer.model = trainer.model_wrapped = trainer.optimizer = trainer.lr_scheduler = None
    # The DeepSpeed config of one Trainer has its "auto" values filled in. The next Trainer needs its own.
    reset_accelerator_state()
    unset_hf_deepspeed_config()
    gc.collect()
