"""What quantisation costs: losses of held-out problems before and after steps of SFT with a LoRA, in nats a token.

    python scripts/quantization_gap.py RECIPE [dotted.key=value ...] [--steps 30] [--batch 4] [--problems 32]

The recipe names a trained model, a LoRA, and model.quantization (null: none, for comparison). The rate is that of
sft.trainer. `trained` is what the stage trained: the adapter over quantised weights. `quantised again` is what the next
stage and all measurements load: the adapter merged into full weights, and these quantised. `full` is the folder itself.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from torch import Tensor

from neuralese.pipeline.latent.engine.quantized import full_size
from neuralese.pipeline.model.load import load_reasoner
from neuralese.pipeline.problems.encode import encode
from neuralese.pipeline.problems.format import Format
from neuralese.pipeline.problems.load import load_all
from neuralese.pipeline.problems.schedule import TEXT
from neuralese.pipeline.recipe.load import RecipeError, load_recipe
from neuralese.pipeline.recipe.schema import Recipe
from neuralese.pipeline.train.lora import lora_config, merge_adapter

IGNORE = -100


def gap(recipe: Recipe, steps: int, batch: int, problems: int) -> dict[str, float]:
    """The losses by name, and the megabytes of the weights as they are held and in full.

    Raises:
        RecipeError: The recipe names no trained model, no LoRA, or no rate.
    """
    model, rate = recipe.model, recipe.sft.trainer.get("learning_rate") if recipe.sft is not None else None
    if model.name_or_path is None or model.lora is None or rate is None:
        raise RecipeError("The recipe must have model.name_or_path, model.lora and sft.trainer.learning_rate.")
    base, data = model.name_or_path, load_all(recipe)
    full = load_reasoner(base, **model.loading_in_full)
    style = Format(full.config)
    held_out, train = (
        [style.example(parts, TEXT) for parts in encode(part, full.tokenizer, full.config)]
        for part in (data.evaluation[:problems], data.train[: steps * batch])
    )
    found = {"base, full": loss(full.model, held_out, batch), "MB, full": full_size(full.model) / 1e6}
    del full
    reasoner = load_reasoner(base, **model.loading)
    held = sum(weight.numel() * weight.element_size() for weight in reasoner.model.parameters())
    found |= {"base, quantised": loss(reasoner.model, held_out, batch), "MB, quantised": held / 1e6}
    torch.manual_seed(recipe.seed)
    adapted = get_peft_model(reasoner.model, lora_config(recipe, reasoner, special_tokens=False)).train()
    optimizer = torch.optim.AdamW([weight for weight in adapted.parameters() if weight.requires_grad], lr=rate)
    for step in range(steps):
        start = step * batch % len(train)
        adapted(**padded(train[start : start + batch])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    found["trained"] = loss(adapted, held_out, batch)
    with tempfile.TemporaryDirectory() as folder:
        final = Path(folder) / "final"
        adapted.save_pretrained(final)
        section, tokenizer = reasoner.config, reasoner.tokenizer
        del adapted, optimizer, reasoner
        merge_adapter(base, final, section, tokenizer, recipe)
        found["quantised again"] = loss(load_reasoner(final, **model.loading).model, held_out, batch)
        found["full"] = loss(load_reasoner(final, **model.loading_in_full).model, held_out, batch)
    return found


@torch.no_grad()
def loss(model: Any, rows: list[dict[str, Any]], batch: int) -> float:
    """Mean loss of the labels of all rows."""
    model.eval()
    total = count = 0.0
    for start in range(0, len(rows), batch):
        part = padded(rows[start : start + batch])
        labels = int((part["labels"][:, 1:] != IGNORE).sum())
        total += model(**part).loss.item() * labels
        count += labels
    return total / count


def padded(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """A batch of examples of `Format`, padded on the right."""

    def stacked(values: list[list[int]], fill: int) -> Tensor:
        tensors = [torch.tensor(value) for value in values]
        return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=fill)

    ids = [row["input_ids"] for row in rows]
    return {
        "input_ids": stacked(ids, 0),
        "attention_mask": stacked([[1] * len(row) for row in ids], 0),
        "labels": stacked([row["labels"] for row in rows], IGNORE),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("override", nargs="*")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--problems", type=int, default=32)
    given = parser.parse_intermixed_args()
    asked = load_recipe(given.recipe, given.override)
    for name, value in gap(asked, given.steps, given.batch, given.problems).items():
        print(f"{name:<16} {value:.4g}")
