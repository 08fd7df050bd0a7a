"""The dataset of a curriculum level, and how its items become batches."""

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
from .encode import Encoded
from .format import Format
from .schedule import Level


@dataclass
class Collator:
    """Pads examples on the right to the longest one of the batch."""

    pad_token_id: int

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """A batch: input_ids, attention_mask, labels (B, T); noise_seeds (B,) and supervision_inputs if given."""
        labels = self._pad(examples, "labels", IGNORE)
        batch: dict[str, Any] = {**self._ids(examples, "input_ids", "attention_mask"), "labels": labels}
        if "noise_seed" in examples[0]:
            batch["noise_seeds"] = torch.tensor([example["noise_seed"] for example in examples])
        if "step_ids" in examples[0]:
            batch["supervision_inputs"] = {"step_ids": _pad_steps([example["step_ids"] for example in examples])}
        elif "slot_labels" in examples[0]:
            batch["supervision_inputs"] = {"slot_labels": self._pad(examples, "slot_labels", IGNORE)}
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
    """Token ids (B, K, Y) of B rows of up to K steps of up to Y tokens; K and Y are at least 1."""
    most = max([1, *map(len, rows)])
    longest = max([1, *(len(step) for row in rows for step in row)])
    padded = torch.full((len(rows), most, longest), IGNORE)
    for row, steps in enumerate(rows):
        for index, step in enumerate(steps):
            padded[row, index, : len(step)] = torch.tensor(step)
    return padded


class LevelDataset(Dataset):
    """The items that one level trains on, in order: problems in the form of this level, or mixed with earlier ones.

    Each P items are a new shuffle of the P problems. What an item shows depends only on (seed, level, index), so all
    processes and resumed runs see the same items.
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
            levels: All levels from 0 (text) on, by index.
            level: Index of the level to train.
            length: Number of items, as many as the training takes.
            style: How problems become token ids and labels.
            mix_earlier: Share of items shown at a level drawn uniformly from 0..level.
            noisy: Each item has a seed for the noise on its latents.
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
        """Index of the problem that an item shows."""
        turn, place = divmod(index, len(self.problems))
        if turn != self._pass:
            generator = torch.Generator().manual_seed(self._hash("order", turn))
            self._pass, self._order = turn, torch.randperm(len(self.problems), generator=generator)
        return int(self._order[place])

    def _hash(self, purpose: str, index: int) -> int:
        return zlib.crc32(f"{purpose}{self.seed}/{self.level}/{index}".encode())
