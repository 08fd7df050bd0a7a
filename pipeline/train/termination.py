"""SIGTERM while a stage is trained: all processes of a launch save the same optimizer step, and end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from transformers import TrainerCallback

from ...data.errors import TerminatedError


class SavedAndTerminatedError(TerminatedError):
    """Training ended after SIGTERM with nothing lost: it is raised on all processes of a launch, after the same step.

    The message is a sentence that says what was saved, and where.
    """


class SaveAndEndCallback(TrainerCallback):
    """Saves a checkpoint and ends training at the first optimizer step after SIGTERM. To be the last callback.

    The scheduler may have sent the signal to one process of many, or to some a step later than to others. So they tell
    each other after each step, in one collective on one number.
    """

    def __init__(self, received: Callable[[], bool], every: int) -> None:
        """
        Args:
            received: Whether this process has received SIGTERM.
            every: Optimizer steps. A resume is exact only from checkpoints at multiples of this many.
        """
        self.received, self.every = received, every
        self.ends = False

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        is_last = control.should_training_stop or state.global_step >= state.max_steps  # `final/` follows
        if not is_last and state.global_step % self.every == 0 and on_any_process(self.received()):
            self.ends = control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.ends:
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            raise SavedAndTerminatedError(f"Step {state.global_step} was saved in {checkpoint}.")


def on_any_process(is_so: bool) -> bool:
    """Whether something is so on any process of the launch. All processes must call it."""
    state = PartialState()
    if state.num_processes == 1:
        return is_so
    return bool(reduce(torch.tensor(float(is_so), device=state.device), "sum") > 0)
