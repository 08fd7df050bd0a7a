"""The latest completions of RL, with their rewards, as a table in Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback

from ...system.compat import latest_completions
from ...tracking.tracker import Tracker


class CompletionsCallback(TrainerCallback):
    """Sends a table at every log where `rl.trainer.log_completions` is set. TRL prints and keeps the same rows."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self.trainer: Any = None
        self.sent = 0  # step of the latest table: the summary of a training is a second log at its last step

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero and args.log_completions and state.global_step > self.sent:
            self.sent = state.global_step
            columns, rows = completions_table(latest_completions(self.trainer))
            self.tracker.log_table("completions", columns, rows, state.global_step)


def completions_table(logs: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of the latest rollouts of a GRPOTrainer.

    A column of `log_extra` that lacks some rollouts is left out.
    """
    columns = {"prompt": logs["prompt"], "completion": logs["completion"], **logs["rewards"], **logs["extra"]}
    columns["advantage"] = logs["advantages"]
    whole = {name: values for name, values in columns.items() if len(values) == len(logs["prompt"])}
    return list(whole), [list(row) for row in zip(*whole.values(), strict=True)]
