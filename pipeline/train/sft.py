"""The stage `sft`: supervised fine-tuning on text chain of thought, by TRL's SFTTrainer."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from datasets import Dataset
from torch import Tensor
from trl import SFTConfig, SFTTrainer

from ..latent.engine.precision import computing
from ..latent.supervision.base import IGNORE
from ..model.load import load_reasoner
from ..problems.format import Format
from ..problems.schedule import TEXT
from ..recipe.schema import Recipe
from ..system.compat import forget_metric
from ..tracking.tracker import TrackingCallback
from .callbacks import ProgressCallback
from .context import Context
from .hand_over import train_and_hand_over
from .lora import inner_model, lora_config
from .timed_trainer import TimedTrainer
from .trainer_config import trainer_config


class TimedSFTTrainer(TimedTrainer, SFTTrainer):
    """TRL's SFTTrainer, which logs what its steps cost."""

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        forget_metric(self, "num_tokens")  # TRL counts from 0 again after a resume
        super().log(logs, start_time)


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
    read_labels_alone(inner_model(trainer.model))
    train_and_hand_over(trainer, context, reasoner, base, folder)


def read_labels_alone(model: Any) -> None:
    """Makes TRL's forward compute in `model.dtype`, and score the positions that carry a label, no others.

    It replaces the reasoner's forward, which does both itself. Without Triton TRL's head scores every position of a
    question, too, and leaves it out of the loss: with a large vocabulary that takes longer than the layers.
    """
    fused = model.forward

    @functools.wraps(fused)
    def forward(*args: Any, fused_lm_head: bool = False, labels: Tensor | None = None, **kwargs: Any) -> Any:
        with computing(model):
            if not fused_lm_head or labels is None:
                return fused(*args, fused_lm_head=fused_lm_head, labels=labels, **kwargs)
            keep = labels[:, 1:] != IGNORE
            hook = model.base_model.register_forward_hook(functools.partial(_keep, keep))
            try:
                return fused(*args, fused_lm_head=True, shift_labels=labels[:, 1:][keep][None], **kwargs)
            finally:
                hook.remove()

    model.forward = forward


def _keep(keep: Tensor, _module: Any, _inputs: Any, outputs: Any) -> Any:
    """The outputs of a backbone, with the states that predict a label (1, N, d) in place of all (B, T, d)."""
    outputs.last_hidden_state = outputs.last_hidden_state[:, :-1][keep][None]
    return outputs
