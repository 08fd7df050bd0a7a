"""What the stages share: trainer configs from recipes, progress, checkpoints, and the hand-over of `final/`."""

from __future__ import annotations

import dataclasses
import gc
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from peft import LoraConfig, PeftModel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.trainer_utils import get_last_checkpoint

from ...data.problem import Problem
from ..reasoner import Reasoner, load_reasoner
from ..recipe import Recipe, RecipeError, nearest
from ..tracking import Tracker

# Set by the pipeline, so that two places cannot disagree.
RESERVED = {
    "output_dir": "the run folder",
    "seed": "the recipe's seed",
    "data_seed": "the recipe's seed",
    "report_to": "the tracking section",
    "run_name": "the recipe's name",
    "resume_from_checkpoint": "--resume",
    "remove_unused_columns": "the pipeline",
    "disable_tqdm": "the pipeline",
    "model_init_kwargs": "the model section",
    "use_vllm": "the pipeline: latents are sampled by the model itself",
}
Config = TypeVar("Config", bound=TrainingArguments)


@dataclass
class Context:
    """What every stage of a run has at hand."""

    recipe: Recipe
    folder: Path
    train: list[Problem]
    held_out: list[Problem]
    tracker: Tracker
    resume: bool


def check_trainer_keys(cls: type[TrainingArguments], section: str, values: dict[str, Any]) -> None:
    """Checks the keys of a `trainer:` mapping against the fields of its config class.

    Raises:
        RecipeError: An unknown key, with the nearest field, or one that the pipeline sets itself.
    """
    known = [field.name for field in dataclasses.fields(cls) if field.init]
    for key in values:
        if key in RESERVED:
            raise RecipeError(f"{section}.trainer.{key} is set by {RESERVED[key]}. Remove the key.")
        if key not in known:
            close = nearest(key, known)
            hint = close if "did you mean" in close else f"; it is no field of {cls.__name__}"
            raise RecipeError(f"unknown key '{section}.trainer.{key}'{hint}")


def trainer_config(
    cls: type[Config], section: str, values: dict[str, Any], seed: int, output_dir: Path, **defaults: Any
) -> Config:
    """Builds a trainer config from a recipe's mapping over our defaults.

    Raises:
        RecipeError: Unknown or reserved keys, or values the config class refuses.
    """
    check_trainer_keys(cls, section, values)
    ours: dict[str, Any] = {
        # Launchers do not hand it to their workers, and without it processes on CPU do not find each other.
        "use_cpu": not torch.cuda.is_available(),
        "bf16": torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
        "gradient_checkpointing": False,
        "logging_steps": 10,
        "logging_first_step": True,
        "save_total_limit": 1,
        **defaults,
    }
    fixed = {
        "output_dir": str(output_dir),
        "seed": seed,
        "data_seed": seed,
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
    }
    try:
        return cls(**{**ours, **values, **fixed})
    except (ValueError, TypeError) as error:
        raise RecipeError(f"{section}.trainer: {cls.__name__} refuses these values: {error}") from error


class ProgressCallback(TrainerCallback):
    """One progress bar for a Trainer, on the main process."""

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

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.progress.stop()


def is_done(folder: Path) -> bool:
    """Whether a stage has left its final checkpoint. `final` is renamed into place, so it is whole or absent."""
    return (folder / "final").is_dir()


def lora_config(recipe: Recipe, reasoner: Reasoner, special_tokens: bool = True) -> LoraConfig | None:
    """The recipe's LoRA, or None.

    Args:
        special_tokens: Also train the embedding rows of the latent special tokens.
    """
    if recipe.model.lora is None:
        return None
    options: dict[str, Any] = {"task_type": "CAUSAL_LM"}
    if special_tokens:
        embedding = reasoner.model.get_input_embeddings()
        name = next(name for name, module in reasoner.model.named_modules() if module is embedding).rsplit(".", 1)[-1]
        options["trainable_token_indices"] = {name: list(reasoner.config.token_ids)}
    try:
        return LoraConfig(**{**options, **recipe.model.lora})
    except TypeError as error:
        raise RecipeError(f"model.lora: {error}. Its keys are the fields of peft.LoraConfig.") from error


def train_and_hand_over(trainer: Trainer, reasoner: Reasoner, base: str | Path, folder: Path, resume: bool) -> None:
    """Trains, resuming from the last checkpoint if asked, and leaves `folder/final`, with adapters merged.

    Args:
        base: Where the stage's starting weights were loaded from; a LoRA is merged into these.
    """
    trainer.remove_callback(PrinterCallback)  # the progress bar and metrics.jsonl say it better
    checkpoint = get_last_checkpoint(str(folder)) if resume and folder.is_dir() else None
    trainer.train(resume_from_checkpoint=checkpoint)
    state = PartialState()
    partial = folder / "final.partial"
    if state.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
    state.wait_for_everyone()
    trainer.save_model(str(partial))  # on all processes: ZeRO-3 gathers here
    is_adapter = isinstance(trainer.accelerator.unwrap_model(trainer.model), PeftModel)
    section = reasoner.config
    release(trainer)
    if state.is_main_process:
        if is_adapter:
            merge_adapter(base, partial, section)
        reasoner.tokenizer.save_pretrained(partial)
        (partial / "training_args.bin").unlink(missing_ok=True)  # a pickle nobody needs
        partial.rename(folder / "final")
        for old in folder.glob("checkpoint-*"):
            shutil.rmtree(old)
    state.wait_for_everyone()


def merge_adapter(base: str | Path, adapter: Path, section: Any) -> None:
    """Replaces an adapter folder by the full model with the adapter merged into it."""
    fresh = load_reasoner(base)
    fresh.model.set_latent_config(**{k: v for k, v in section.to_dict().items() if k not in ("version", "token_ids")})
    merged = PeftModel.from_pretrained(fresh.model, str(adapter)).merge_and_unload()
    shutil.rmtree(adapter)
    merged.save_pretrained(adapter)


def release(trainer: Trainer) -> None:
    """Frees a Trainer and the process-wide state it set, so that the next stage starts from nothing."""
    trainer.accelerator.free_memory()
    trainer.model = trainer.model_wrapped = trainer.optimizer = trainer.lr_scheduler = None
    # The DeepSpeed config of one Trainer has its "auto" values filled in; the next Trainer needs its own.
    AcceleratorState._reset_state()
    unset_hf_deepspeed_config()
    gc.collect()
