"""What the stages share: trainer configs from recipes, progress, checkpoints, and the hand-over of `final/`."""

from __future__ import annotations

import dataclasses
import gc
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from accelerate import PartialState
from peft import PeftModel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from ...data.problem import Problem
from ..latent.mixin import LatentMixin
from ..model.reasoner import Reasoner
from ..problems.encode import Encoded
from ..problems.load import fingerprint
from ..recipe.load import RecipeError, nearest
from ..recipe.schema import Recipe
from ..system.compat import reset_accelerator_state
from ..system.files import check_room, follow_umask
from ..system.processes import on_cpu
from ..system.whole import flush
from ..tracking.tracker import Tracker
from .checkpoints import Launch, LaunchCallback, checkpoint_to_resume
from .lora import merge_adapter, thin_frozen
from .trainer_values import check_together, check_values, settled

# Set by the pipeline, so that two places cannot disagree.
RESERVED = {
    "output_dir": "the run folder",
    "seed": "the recipe's seed",
    "data_seed": "the recipe's seed",
    "report_to": "the tracking section",
    "run_name": "the recipe's name",
    "resume_from_checkpoint": "--resume",
    "remove_unused_columns": "the pipeline",
    "save_only_model": "the pipeline, which resumes with the optimizer's state",
    "restore_callback_states_from_checkpoint": "the pipeline, whose callbacks read the log again",
    "disable_tqdm": "the pipeline",
    "model_init_kwargs": "the model section",
    "reward_weights": "the weights of rl.rewards",
    "eval_strategy": "the pipeline, which measures by itself",
    "load_best_model_at_end": "the pipeline, which measures by itself",
    **dict.fromkeys(("bf16", "fp16", "bf16_full_eval", "fp16_full_eval", "cast_lm_head_to_fp32"), "model.dtype"),
    **dict.fromkeys(
        ("torch_compile", "torch_compile_backend", "torch_compile_mode"),
        "the pipeline, which compiles nothing: passes over latents change their shape with every batch",
    ),
    **dict.fromkeys(("fsdp", "fsdp_config"), "the launcher, which shards by DeepSpeed (recipes/accelerate/zero3.yaml)"),
    "ds3_gather_for_generation": "the pipeline, whose rollouts need whole weights",
    **dict.fromkeys(
        (
            "use_vllm",
            "use_transformers_continuous_batching",
            "repetition_penalty",
            "generation_kwargs",
            "cache_implementation",
            "chat_template_kwargs",
        ),
        "the pipeline, which samples latents and answers by itself",
    ),
}
Config = TypeVar("Config", bound=TrainingArguments)
Report = Callable[[Trainer], dict[str, Any]]
REPORT = "report.json"


@dataclass
class Context:
    """What every stage of a run has at hand.

    Attributes:
        train: Training problems.
        encoded: The same as tokens, in their order.
        held_out: Training problems kept apart to measure curriculum stages on.
        evaluation: Problems that the run is measured on in the end.
    """

    recipe: Recipe
    folder: Path
    train: list[Problem]
    encoded: list[Encoded]
    held_out: list[Problem]
    evaluation: list[Problem]
    tracker: Tracker
    resume: bool

    @cached_property
    def training_data(self) -> str:
        """What tells the training problems from others."""
        return fingerprint(self.train)


def check_trainer_keys(cls: type[TrainingArguments], key: str, values: dict[str, Any]) -> None:
    """Checks the keys of a `trainer:` mapping against the fields of its config class.

    Args:
        key: The recipe key of the mapping, such as sft.trainer.

    Raises:
        RecipeError: An unknown key, with the nearest field, or one that the pipeline sets itself.
    """
    known = [field.name for field in dataclasses.fields(cls) if field.init]
    for name in values:
        if name in RESERVED:
            raise RecipeError(f"{key}.{name} is set by {RESERVED[name]}. Remove the key.")
        if name not in known:
            close = nearest(name, known)
            hint = close if "did you mean" in close else f"; it is no field of {cls.__name__}"
            raise RecipeError(f"unknown key '{key}.{name}'{hint}")


def trainer_config(
    cls: type[Config], key: str, values: dict[str, Any], seed: int, output_dir: Path, **defaults: Any
) -> Config:
    """Builds a trainer config from a recipe's mapping over our defaults.

    Args:
        key: The recipe key of the mapping, such as sft.trainer.

    Raises:
        RecipeError: Unknown or reserved keys, or values that cannot be trained with.
    """
    check_trainer_keys(cls, key, values)
    check_values(key, cls, values)
    ours: dict[str, Any] = {
        # Launchers do not hand it to their workers, and without it processes on CPU do not find each other.
        "use_cpu": on_cpu(),
        "gradient_checkpointing": False,
        "logging_steps": 10,
        "logging_first_step": True,
        "save_total_limit": 2,  # a power cut may tear the newest one
        **defaults,
    }
    fixed = {
        "output_dir": str(output_dir),
        "seed": seed,
        "data_seed": seed,
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "bf16": False,  # the reasoner casts by itself, the same under every launcher and when it is measured
    }
    try:
        args = cls(**{**ours, **settled(key, cls, values), **fixed})
    except Exception as error:  # the libraries that a value asks for raise errors of their own
        text = " ".join(str(error).split())
        raise RecipeError(f"{key}: {cls.__name__} refuses these values: {text}") from error
    check_together(key, args)
    return args


class NoLastCheckpointCallback(TrainerCallback):
    """Saves no checkpoint at a stage's last step: `final/` follows at once, and one would resume past the end."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if control.should_training_stop or state.global_step >= state.max_steps:
            control.should_save = False


class UmaskCallback(TrainerCallback):
    """Gives the weights of every checkpoint the mode of other new files."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            follow_umask(Path(args.output_dir) / f"checkpoint-{state.global_step}")


class ProgressCallback(TrainerCallback):
    """One progress bar for a Trainer, on the main process. Whoever trains stops it, also after an error."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )  # fmt: skip

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.progress.start()
            self.task = self.progress.add_task(self.title, total=state.max_steps, completed=state.global_step, note="")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.progress.update(self.task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        shown = [(key, (logs or {}).get(key)) for key in ("loss", "reward", "accuracy")]
        note = "  ".join(f"{key} {value:.3f}" for key, value in shown if isinstance(value, float))
        if state.is_world_process_zero and note:
            self.progress.update(self.task, note=note)


def inner_model(model: Any) -> PreTrainedModel:
    """The latent reasoner under a PEFT wrapper; adapters stay in place."""
    return model if isinstance(model, LatentMixin) else model.get_base_model()


def is_done(folder: Path) -> bool:
    """Whether a stage has left its final checkpoint. `final` is renamed into place, so it is whole or absent."""
    return (folder / "final").is_dir()


def train_and_hand_over(
    trainer: Trainer, context: Context, reasoner: Reasoner, base: str | Path, folder: Path, report: Report | None = None
) -> None:
    """Trains, resuming from the last checkpoint if asked, and leaves `folder/final`, with adapters merged.

    Args:
        base: Where the stage's starting weights were loaded from; a LoRA is merged into these.
        report: Called after training; what it returns is kept as `final/report.json`.

    Raises:
        CheckpointError: The checkpoint to resume from was made under another launch.
    """
    trainer.remove_callback(PrinterCallback)  # the progress bar and metrics.jsonl say it better
    trainer.add_callback(NoLastCheckpointCallback)
    check_room(context.folder, sum(weight.numel() * weight.element_size() for weight in trainer.model.parameters()))
    is_adapter = isinstance(trainer.model, PeftModel)
    if is_adapter and not trainer.is_deepspeed_enabled:  # which takes weights of one dtype
        thin_frozen(reasoner.model)
    trainer.add_callback(UmaskCallback)
    launch = Launch.of(trainer, context.training_data)
    trainer.add_callback(LaunchCallback(launch))
    checkpoint = checkpoint_to_resume(folder, launch) if context.resume else None
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    finally:
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, ProgressCallback):
                callback.progress.stop()
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
        (partial / "training_args.bin").unlink(missing_ok=True)  # a pickle nobody needs
        follow_umask(partial)
        flush(folder)  # the checkpoints are removed next
        partial.rename(folder / "final")
        for old in folder.glob("checkpoint-*"):
            shutil.rmtree(old)
    state.wait_for_everyone()


def release(trainer: Trainer) -> None:
    """Frees a Trainer and the process-wide state it set, so that the next stage starts from nothing."""
    trainer.accelerator.free_memory()
    trainer.model = trainer.model_wrapped = trainer.optimizer = trainer.lr_scheduler = None
    # The DeepSpeed config of one Trainer has its "auto" values filled in; the next Trainer needs its own.
    reset_accelerator_state()
    unset_hf_deepspeed_config()
    gc.collect()
