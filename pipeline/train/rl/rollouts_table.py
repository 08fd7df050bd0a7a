"""Rollouts of RL as a person wants to read them: what was asked, thought and answered, and what it earned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...tracking.tracker import Tracker


@dataclass
class RolloutsTable:
    """Sends a table of rollouts and histograms to Weights & Biases, at the first draw and every few optimizer steps.

    Attributes:
        every: Optimizer steps from one table to the next, or to the first draw after them.
        shown: Rollouts of a table; None: all of this process.
        sent: Step of the latest table.
        wants_ratios: The ratios of the rollouts that were drawn last, and are in a table, are still to come.
    """

    tracker: Tracker
    every: int
    shown: int | None = 16
    sent: int | None = None
    wants_ratios: bool = False

    def begin_draw(self, step: int) -> bool:
        """Rollouts are drawn anew. Returns whether they go into a table."""
        self.wants_ratios = False
        return self.tracker.sends_media and (self.sent is None or step >= self.sent + self.every)

    def send(self, columns: Mapping[str, Sequence[Any]], numbers: Mapping[str, Tensor], step: int) -> None:
        """Sends columns of equal length as a table, and numbers as histograms."""
        self.sent, self.wants_ratios = step, True
        rows = [list(row) for row in zip(*columns.values(), strict=True)]
        self.tracker.log_table("completions", list(columns), rows, step)
        self.tracker.log_histograms(numbers, step)

    def takes_ratios(self, inputs: Mapping[str, Any], step: int) -> bool:
        """Whether the ratios of a batch are to be sent: the first ones after an update on the rollouts of the table."""
        moved = self.sent is not None and step > self.sent
        return self.wants_ratios and moved and "old_per_token_logps" in inputs

    def send_ratios(self, ratios: Tensor, step: int) -> None:
        """Sends the importance ratios (B, A) of answer tokens, 0 where there is none."""
        self.wants_ratios = False
        self.tracker.log_histograms({"histogram/ratio": ratios[ratios > 0]}, step)


def rollout_columns(
    logs: Mapping[str, Any], thoughts: Sequence[str], advantages: Sequence[float], seeds: Sequence[int]
) -> dict[str, list[Any]]:
    """The columns of a table: those of TRL's table of completions, the thought in words, and the seed of its noise.

    Args:
        logs: The latest rollouts of a GRPOTrainer, of all processes; those of this one come first. A column of
            `log_extra` that lacks some is left out.
        thoughts: Of the rollouts to show; all empty where nothing can be read.
        advantages: Theirs; of PPO the mean over answer tokens.
        seeds: Of their noise.
    """
    columns = {"prompt": logs["prompt"]}
    if any(thoughts):
        columns["thought"] = thoughts
    columns |= {"completion": logs["completion"], **logs["rewards"]}
    columns |= {name: values for name, values in logs["extra"].items() if len(values) == len(logs["prompt"])}
    columns["advantage"] = advantages
    columns["noise_seed"] = [str(seed) for seed in seeds]  # too large for the numbers of a browser
    return {name: list(values)[: len(seeds)] for name, values in columns.items()}
