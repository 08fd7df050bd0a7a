"""A problem as a level of the curriculum shows it to the model: token ids and labels. No tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..latent.config import LatentConfig
from ..latent.supervision import IGNORE, slot_labels
from .encode import Encoded, latent_block
from .schedule import TEXT, Level


@dataclass(frozen=True)
class Format:
    """How problems become token ids and labels.

    Attributes:
        config: The latent section of the model.
        pad_latents: All problems have the latents of the level. False: a problem has those of its own steps.
        eos_token_id: Ends a step that the decoder supervision learns to write, and fills a block of step_tokens.
    """

    config: LatentConfig
    pad_latents: bool = True
    eos_token_id: int = -1

    def count(self, encoded: Encoded, level: Level) -> int:
        """Number of latents of a problem at a level. A problem without steps counts as having one step."""
        own = max(1, len(encoded.steps)) * self.config.latents_per_step
        return level.num_latents if self.pad_latents else min(level.num_latents, own)

    def render(self, encoded: Encoded, level: Level) -> tuple[list[int], list[int]]:
        """Token ids (T) and labels (T) of a problem at a level. The loss falls on everything after the latents.

        With next_step supervision the first latent of each replaced step is labelled with the first token of the step:
        the hidden state that the latent is made from learns to predict it.
        """
        removed = len(encoded.steps) if level.removed_steps is None else level.removed_steps
        count, c = self.count(encoded, level), self.config.latents_per_step
        block = latent_block(count, self.config)
        block_labels = [IGNORE] * len(block)
        if self.config.supervision == "next_step":
            first = 1 if self.config.delimiters else 0
            for index, step in enumerate(encoded.steps[: count // c]):
                block_labels[first + index * c] = step[0]
        target = [token for step in encoded.steps[removed:] for token in step] + encoded.answer
        return encoded.question + block + target, [IGNORE] * len(encoded.question) + block_labels + target

    def example(self, encoded: Encoded, level: Level) -> dict[str, Any]:
        """A training example: `input_ids`, `labels`, and what the supervision reads (see `latent.supervision`)."""
        ids, labels = self.render(encoded, level)
        example: dict[str, Any] = {"input_ids": ids, "labels": labels}
        if self.config.supervision == "decoder":
            steps = encoded.steps[: self.count(encoded, level) // self.config.latents_per_step]
            example["step_ids"] = [[*step, self.eos_token_id] for step in steps]
        elif self.config.supervision == "step_tokens":
            count = self.count(encoded, level)
            before = len(encoded.question) + (1 if self.config.delimiters and count else 0)
            slots = [IGNORE] * before + self.slot_labels(encoded, count)
            example["slot_labels"] = slots + [IGNORE] * (len(ids) - len(slots))
        elif self.config.supervision == "distillation":
            text, text_labels = self.render(encoded, TEXT)
            before_answer = len(encoded.answer) - encoded.prefix + 1
            example |= {
                "teacher_ids": text,
                "teacher_labels": text_labels,
                "teacher_position": len(text) - before_answer,
                "student_position": len(ids) - before_answer,
            }
        return example

    def slot_labels(self, encoded: Encoded, count: int) -> list[int]:
        """The label of each of `count` latents: a token of its step; -100 where there is none."""
        c = self.config.latents_per_step
        padding = self.eos_token_id if self.config.supervision_options.get("label_padding") else IGNORE
        return slot_labels(encoded.steps[: count // c], count, c, padding)

    def stands_for(self, encoded: Encoded, count: int) -> list[int]:
        """The token that each of `count` latents stands for: its label, else the first of its step; -100: none."""
        c = self.config.latents_per_step
        if self.config.supervision == "step_tokens":
            return self.slot_labels(encoded, c * math.ceil(count / c))[:count]
        firsts = [step[0] for step in encoded.steps for _ in range(c)]
        return (firsts + [IGNORE] * count)[:count]
