"""Datasets and batches of the curriculum."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from .curriculum import Encoded, Stage, render
from .latent.reasoner import IGNORE


@dataclass
class Collator:
    """Pads examples on the right to the longest of the batch."""

    pad_token_id: int

    def __call__(self, examples: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, Tensor]:
        """Batch with input_ids, attention_mask and labels, each (B, T)."""
        ids = [torch.tensor(example["input_ids"]) for example in examples]
        labels = [torch.tensor(example["labels"]) for example in examples]
        mask = [torch.ones_like(row) for row in ids]
        return {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.pad_token_id),
            "attention_mask": pad_sequence(mask, batch_first=True),
            "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORE),
        }


class StageDataset(Dataset):
    """Problems as one curriculum stage sees them, some of them as an earlier stage would.

    The dataset is as long as the training run: item i is problem i mod P, and whether it is shown at an earlier stage
    depends on (seed, stage, i) alone. So every process and every resumed run sees the same items, and each pass over
    the problems mixes them anew.
    """

    def __init__(
        self,
        problems: Sequence[Encoded],
        stages: Sequence[Stage],
        stage: int,
        length: int,
        token_ids: tuple[int, int, int],
        latents_per_step: int,
        mix_earlier: float = 0.0,
        supervise: bool = False,
        seed: int = 0,
    ) -> None:
        """
        Args:
            stages: Stage 0 and all later ones, by index.
            stage: Index of the stage to train.
            length: Items in the dataset.
            mix_earlier: Share of items shown at a stage drawn uniformly from 0..stage.
        """
        self.problems, self.stages, self.stage, self.length = problems, stages, stage, length
        self.token_ids, self.latents_per_step = token_ids, latents_per_step
        self.mix_earlier, self.supervise, self.seed = mix_earlier, supervise, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        encoded = self.problems[index % len(self.problems)]
        draw = zlib.crc32(f"{self.seed}/{self.stage}/{index}".encode()) / 2**32  # uniform in [0, 1)
        stage = self.stage
        if draw < self.mix_earlier:
            stage = int(draw / self.mix_earlier * (self.stage + 1))
        ids, labels = render(encoded, self.stages[stage], self.token_ids, self.latents_per_step, self.supervise)
        return {"input_ids": ids, "labels": labels}
