"""Alarms of RL: each says in words what goes wrong, as soon as the log shows it. docs/metrics.md lists them."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from transformers import TrainerCallback

from ...tracking.tracker import Tracker

logger = logging.getLogger(__name__)
PATIENCE = 10  # a state is an alarm after so many logs in a row
FEW = 3  # the same, for a state that does not come and go
CUT = "completions/clipped_ratio"  # TRL's name
Logs = Mapping[str, float]
# Nats that rounding may move a log-prob by between a rollout and its replay, in other batches and kernels.
REPLAY_LIMITS = {"float32": 0.1, "float64": 0.1, "bfloat16": 1.0}


@dataclass
class Lasting:
    """Is true when a condition held in each of the last `logs` logs.

    A log for which the condition is None does not count.
    """

    holds: Callable[[Logs], bool | None]
    logs: int = PATIENCE
    count: int = 0

    def __call__(self, logs: Logs) -> bool:
        held = self.holds(logs)
        if held is not None:
            self.count = self.count + 1 if held else 0
        return self.count >= self.logs


@dataclass
class Narrowing:
    """Is true when the mean reward rose and the best of a group fell, each by more than `by`, in 2 `PATIENCE` logs."""

    by: float = 0.05
    means: deque[float] = field(default_factory=lambda: deque(maxlen=2 * PATIENCE))
    bests: deque[float] = field(default_factory=lambda: deque(maxlen=2 * PATIENCE))

    def __call__(self, logs: Logs) -> bool:
        if "group/mean" in logs:
            self.means.append(logs["group/mean"])
            self.bests.append(logs["group/best"])
        return self._rise(self.means) > self.by and self._rise(self.bests) < -self.by

    @staticmethod
    def _rise(values: deque[float]) -> float:
        if len(values) < 2 * PATIENCE:
            return 0.0
        ordered = list(values)
        return (sum(ordered[PATIENCE:]) - sum(ordered[:PATIENCE])) / PATIENCE


@dataclass
class Drift:
    """Is true when a value is outside [first / factor, first · factor], where `first` is its value in the first log."""

    name: str
    factor: float = 4.0
    first: float | None = None

    def __call__(self, logs: Logs) -> bool:
        value = logs.get(self.name)
        if value is None:
            return False
        if self.first is None:
            self.first = value
        return not self.first / self.factor <= value <= self.first * self.factor


@dataclass
class Fallen:
    """Is true when a value is at most half of the highest that it had, where that was no less than a floor."""

    name: str
    floor: float = 0.0
    highest: float = -math.inf

    def __call__(self, logs: Logs) -> bool:
        value = logs.get(self.name)
        if value is None:
            return False
        self.highest = max(value, self.highest)
        return self.highest >= self.floor and value <= self.highest / 2


def above(name: str, limit: float) -> Callable[[Logs], bool]:
    """Is true when a value is above a limit."""
    return lambda logs: logs.get(name, 0.0) > limit


def _not_finite(logs: Mapping[str, Any]) -> bool:
    # TRL logs the mean of nothing but NaN as None.
    values = [logs.get(name, 0.0) for name in ("loss", "grad_norm", "kl", "latent/rms")]
    return any(value is None or not math.isfinite(value) for value in values)


def all_alarms(compute_dtype: str = "float32") -> dict[str, tuple[Callable[[Logs], bool], str]]:
    """Condition and message of each alarm. The message may name values of the log in braces.

    Args:
        compute_dtype: What the model computes in.
    """
    limit = REPLAY_LIMITS[compute_dtype]
    return {
        "nan": (_not_finite, "loss {loss}, grad_norm {grad_norm}: not a finite number. Lower the learning rate."),
        "unscored": (
            lambda logs: logs.get("group/unscored", 0.0) == 1,
            "every reward was None for all completions, so nothing is learned. Let one of rl.rewards return numbers.",
        ),
        "cut_answers": (
            Lasting(lambda logs: logs[CUT] == 1 if CUT in logs else None, FEW),
            f"all answers of the last {FEW} logs were cut before their end token. Raise "
            "rl.trainer.max_completion_length, or train the stages before until the model ends its answers.",
        ),
        "equal_groups": (
            Lasting(lambda logs: logs["group/mixed"] == 0 if "group/mixed" in logs else None),
            f"no group of the last {PATIENCE} logs had rewards that differ, so nothing is learned. Raise the "
            "temperature or the noise, take easier or harder problems, or draw more rollouts a group.",
        ),
        "thoughts_collapsed": (
            Lasting(lambda logs: logs["latent/cosine"] > 0.9999 if "latent/cosine" in logs else None),
            "the latents of different rollouts have become the same (cosine {latent/cosine:.5f}): the noise no longer "
            "changes the thoughts. Raise rl.noise, or sample answers with a temperature alone.",
        ),
        "thoughts_without_effect": (
            Lasting(lambda logs: logs["group/between_thoughts"] <= 0 if "group/between_thoughts" in logs else None),
            "thoughts of a question have equal rewards, apart from what the sampling of answers explains. Raise "
            "rl.noise.",
        ),
        "narrowing": (
            Narrowing(),
            "the mean reward rises while the best of the group falls ({group/best:.3f}): the rollouts grow alike. "
            "Lower the learning rate, raise rl.trainer.beta, or set rl.max_at.",
        ),
        "norm_drift": (
            Drift("latent/rms"),
            "the latents' norm has drifted to {latent/rms:.3g} of the embeddings'. Take a thought source that holds it "
            "(norm_matched), or lower the learning rate.",
        ),
        "illegible": (
            Fallen("thought/legibility"),
            "the thoughts can be read with a mean probability of {thought/legibility:.3f}, half of what it was: they "
            "no longer say their steps. Set rl.step_tokens_weight, or raise it.",
        ),
        "latent_unread": (
            Fallen("thought/least_read", floor=0.2),
            "one latent is read right in {thought/least_read:.2f} of the held-out problems, at most half of what the "
            "worst one has been: it no longer says its token of the steps. Set rl.step_tokens_weight, or raise it.",
        ),
        "ratio": (
            above("ratio/sd", 10.0),
            "importance ratios spread by {ratio/sd:.3g}: the policy has moved too far from its rollouts. Lower the "
            "learning rate or rl.trainer.num_iterations.",
        ),
        "kl": (
            above("kl", 10.0),
            "the KL to the reference is {kl:.3g} nats a token. Lower the learning rate or raise rl.trainer.beta.",
        ),
        "replay": (
            above("rollout/replay_gap", limit),
            "log-probs recomputed from the seeds differ by {rollout/replay_gap:.3g} nats from those of the rollout, "
            f"more than the {limit:g} that rounding explains in {compute_dtype} (model.dtype). The noise is not a "
            "function of its seed, or another precision is used in between.",
        ),
    }


class AlarmCallback(TrainerCallback):
    """Warns once of each alarm, and ends training where it is asked to."""

    def __init__(
        self, action: Literal["warn", "stop"], compute_dtype: str = "float32", tracker: Tracker | None = None
    ) -> None:
        self.action, self.tracker = action, tracker
        self.alarms = all_alarms(compute_dtype)
        self.raised: list[str] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        for name in self._hear(logs or {}):
            if state.is_world_process_zero:
                shown = self.alarms[name][1].format_map({"loss": "absent", "grad_norm": "absent", **(logs or {})})
                logger.warning("Alarm %s at RL step %d: %s", name, state.global_step, shown)
                if self.tracker is not None:
                    self.tracker.alert(f"Alarm {name} at RL step {state.global_step}", shown)
            if self.action == "stop":
                control.should_training_stop = True
                control.should_save = False  # a resume from here would have heard of the alarm, and train on

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        for logs in state.log_history:  # of a run that is resumed: what it was warned of, and what has lasted
            self._hear(logs)

    def _hear(self, logs: Mapping[str, Any]) -> list[str]:
        """Alarms that a log raises for the first time."""
        if "loss" not in logs and "held_out/accuracy" not in logs:  # as the summary at the end
            return []
        known = {name: value for name, value in logs.items() if value is not None}
        new = []
        for name, (holds, _) in self.alarms.items():
            if holds(logs if name == "nan" else known) and name not in self.raised:
                self.raised.append(name)
                new.append(name)
        return new
