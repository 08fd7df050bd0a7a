"""The stage `sft`: supervised fine-tuning on text chain of thought, by TRL's SFTTrainer."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from ..latent.engine.precision import computing
from ..model.load import load_reasoner
from ..problems.format import Format
from ..problems.schedule import TEXT
from ..recipe.schema import Recipe
from ..tracking.tracker import TrackingCallback
from .callbacks import ProgressCallback
from .context import Context
from .hand_over import train_and_hand_over
from .lora import inner_model, lora_config
from .timed_trainer import TimedTrainer
from .trainer_config import trainer_config


class TimedSFTTrainer(TimedTrainer, SFTTrainer):
    """TRL's SFTTrainer, which logs what its steps cost."""


def sft_args(recipe: Recipe, folder: Path) -> SFTConfig:
    """The SFT config of a recipe. We tokenize the examples, so that all stages cut the text at the same places."""
    section = recipe.sft
    assert section is not None
    return trainer_config(
        SFTConfig,
        "sft.trainer",
        section.trainer,
        recipe.seed,
        folder,
        completion_only_loss=True,
        max_length=None,
    )


def train_sft(context: Context, base: str | Path, folder: Path) -> None:
    """Trains question -> steps, answer, with the loss on steps and answer. Leaves `folder/final`."""
    args = sft_args(context.recipe, folder)
    reasoner = load_reasoner(base, **context.recipe.model.loading, **context.recipe.data.text_options)
    style = Format(reasoner.config)
    rows = [style.example(parts, TEXT) for parts in context.encoded]
    trainer = TimedSFTTrainer(
        model=reasoner.model,
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=reasoner.tokenizer,
        # This stage has no special tokens, and TRL's fused head cannot read through a wrapped embedding.
        peft_config=lora_config(context.recipe, reasoner, special_tokens=False),
        callbacks=[TrackingCallback(context.tracker), ProgressCallback("sft")],
    )
    _compute_in_its_dtype(inner_model(trainer.model))
    train_and_hand_over(trainer, context, reasoner, base, folder)


def _compute_in_its_dtype(model: Any) -> None:
    """Makes TRL's forward compute in `model.dtype`. It replaces the reasoner's forward, which does so itself."""
    fused = model.forward

    @functools.wraps(fused)
    def forward(*args: Any, **kwargs: Any) -> Any:
        with computing(model):
            return fused(*args, **kwargs)

    model.forward = forward
