"""Datasets and batches of the curriculum."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from ..latent.supervision import IGNORE
from .encode import Encoded, Format
from .schedule import Level


@dataclass
class Collator:
    """Pads examples on the right to the longest of the batch."""

    pad_token_id: int

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Batch: input_ids, attention_mask, labels (B, T); noise_seeds (B,) and supervision_inputs if there are any."""
        labels = self._pad(examples, "labels", IGNORE)
        batch: dict[str, Any] = {**self._ids(examples, "input_ids", "attention_mask"), "labels": labels}
        if "noise_seed" in examples[0]:
            batch["noise_seeds"] = torch.tensor([example["noise_seed"] for example in examples])
        if "step_ids" in examples[0]:
            batch["supervision_inputs"] = {"step_ids": _pad_steps([example["step_ids"] for example in examples])}
        elif "teacher_ids" in examples[0]:
            batch["supervision_inputs"] = {
                **self._ids(examples, "teacher_ids", "teacher_mask"),
                "teacher_labels": self._pad(examples, "teacher_labels", IGNORE),
                "teacher_position": torch.tensor([example["teacher_position"] for example in examples]),
                "student_position": torch.tensor([example["student_position"] for example in examples]),
                "num_labels": (labels != IGNORE).sum(1),
            }
        return batch

    def _ids(self, examples: Sequence[Mapping[str, Any]], name: str, mask_name: str) -> dict[str, Tensor]:
        mask = [torch.ones(len(example[name]), dtype=torch.long) for example in examples]
        return {name: self._pad(examples, name, self.pad_token_id), mask_name: pad_sequence(mask, batch_first=True)}

    def _pad(self, examples: Sequence[Mapping[str, Any]], name: str, value: int) -> Tensor:
        rows = [torch.tensor(example[name]) for example in examples]
        return pad_sequence(rows, batch_first=True, padding_value=value)


def _pad_steps(rows: Sequence[Sequence[Sequence[int]]]) -> Tensor:
    """Step tokens (B, K, Y) of ragged rows of ragged steps; at least one column of each."""
    most = max([1, *map(len, rows)])
    longest = max([1, *(len(step) for row in rows for step in row)])
    padded = torch.full((len(rows), most, longest), IGNORE)
    for row, steps in enumerate(rows):
        for index, step in enumerate(steps):
            padded[row, index, : len(step)] = torch.tensor(step)
    return padded


class LevelDataset(Dataset):
    """Problems as one curriculum level sees them, some of them as an earlier level would.

    The dataset is as long as the training run, and is to be read in its order: P items are a pass over the P problems,
    each once, shuffled anew. The order and whether an item is shown at an earlier level depend on (seed, level, item)
    alone, so every process and every resumed run sees the same items.
    """

    def __init__(
        self,
        problems: Sequence[Encoded],
        levels: Sequence[Level],
        level: int,
        length: int,
        style: Format,
        mix_earlier: float = 0.0,
        seed: int = 0,
        noisy: bool = False,
    ) -> None:
        """
        Args:
            levels: Level 0 and all later ones, by index.
            level: Index of the level to train.
            length: Items in the dataset.
            style: How problems are shown.
            mix_earlier: Share of items shown at a level drawn uniformly from 0..level.
            noisy: Give every item a seed for noise on its latents.
        """
        self.problems, self.levels, self.level, self.length = problems, levels, level, length
        self.style, self.mix_earlier, self.seed, self.noisy = style, mix_earlier, seed, noisy
        self._pass, self._order = -1, torch.empty(0, dtype=torch.long)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        encoded = self.problems[self.place(index)]
        draw = self._hash("", index) / 2**32  # uniform in [0, 1)
        level = self.level
        if draw < self.mix_earlier:
            level = int(draw / self.mix_earlier * (self.level + 1))
        example = self.style.example(encoded, self.levels[level])
        if self.noisy:
            example["noise_seed"] = self._hash("noise", index)
        return example

    def place(self, index: int) -> int:
        """Which problem an item shows."""
        turn, place = divmod(index, len(self.problems))
        if turn != self._pass:
            generator = torch.Generator().manual_seed(self._hash("order", turn))
            self._pass, self._order = turn, torch.randperm(len(self.problems), generator=generator)
        return int(self._order[place])

    def _hash(self, purpose: str, index: int) -> int:
        return zlib.crc32(f"{purpose}{self.seed}/{self.level}/{index}".encode())
