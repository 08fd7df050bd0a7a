"""When a level ends and whether it is promoted: greedy accuracy on held-out problems against the level's threshold.

The thresholds are in `arm_plan.py` (`ArmPlan.threshold`), what follows a level in `order.py`.
How a visit ended is in its `report.json`, see `reports.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from transformers import TrainerCallback

from ....data.problem import Problem
from ....rewards.score import is_right
from ...model.reasoner import Reasoner
from ...recipe.schema import EvaluateSection
from ...system.processes import my_share
from ..followed import Followed
from ..generation import generating
from .level_trainer import LevelTrainer


class Promotion(TrainerCallback):
    """Measures accuracy every few optimizer steps and ends the level: promoted at its threshold, or out of patience."""

    def __init__(
        self,
        reasoner: Reasoner,
        problems: Sequence[Problem],
        settings: EvaluateSection,
        num_latents: int,
        target: float | None,
        every: int,
        patience: int | None = None,
        followed: Followed | None = None,
    ) -> None:
        """
        Args:
            problems: Held-out problems to measure on.
            num_latents: Latents of the level.
            target: Accuracy at which the level is promoted. None: it trains to its limit, and is not promoted.
            every: Optimizer steps between two measurements. One more is made at the last step.
            patience: The level ends after this many measurements in a row without a new best. None: never.
            followed: Takes the answers of the level.
        """
        self.reasoner, self.problems, self.settings, self.num_latents = reasoner, problems, settings, num_latents
        self.target, self.every, self.patience = target, every, patience
        self.followed = followed
        self.trainer: LevelTrainer | None = None
        self.accuracy = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self.every and state.global_step < state.max_steps:
            return
        assert self.trainer is not None
        with self.trainer.clock.part("eval"):
            self.accuracy = self.measure(self.num_latents, self.followed)
        # From the log, which a checkpoint restores. This object starts anew on resume.
        history = [log["accuracy"] for log in state.log_history if "accuracy" in log] + [self.accuracy]
        if self.is_promoted or self._is_out_of_patience(history):
            control.should_training_stop = True
        self.trainer.measured = {"accuracy": self.accuracy}
        control.should_log = True

    @property
    def is_promoted(self) -> bool:
        """Whether the latest accuracy has reached the threshold."""
        return self.target is not None and self.accuracy >= self.target

    def _is_out_of_patience(self, history: Sequence[float]) -> bool:
        """Whether the best of all measurements is `patience` measurements old. Of equal ones the first counts."""
        since_best = len(history) - 1 - history.index(max(history))
        return self.patience is not None and since_best >= self.patience

    def measure(self, num_latents: int, followed: Followed | None = None) -> float:
        """Greedy accuracy on the problems, the same on every process. Each process answers a part of them."""
        assert self.trainer is not None
        mine = my_share(self.problems)
        with generating(self.trainer) as model:
            reasoner = Reasoner(model, self.reasoner.tokenizer)
            samples = reasoner.generate(
                [problem.question for problem in mine],
                num_latents=num_latents,
                max_new_tokens=self.settings.max_new_tokens,
                **self.settings.at_once,
            )
            texts, answer_format = [sample.texts for sample in samples], self.reasoner.config.answer_format
            right = is_right(self.settings.scorer, mine, texts, answer_format)
            if followed is not None:
                followed.send(reasoner, mine, samples, right, self.trainer.state.global_step)
        return float(reduce(torch.tensor(float(right.sum()), device=PartialState().device), "sum")) / len(self.problems)
