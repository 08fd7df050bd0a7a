"""How the rollouts of a group are drawn: settings, whole thoughts in a batch, seeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ...latent.config import LatentConfig
from ...latent.noise import Noise
from ...latent.sampling.budget import Budget
from ...latent.thoughts import THOUGHT_SOURCES
from .estimators import REPLAY, Estimator, EstimatorError

ROLLOUTS = Budget(key="rl.rollout_batch_tokens")


@dataclass(frozen=True)
class RolloutSettings:
    """How a group of rollouts is drawn and credited.

    Attributes:
        noise: On the latents; None: all rollouts of a question think the same.
        estimator: See `estimators`.
        answers_per_thought: Answers sampled after each thought. `num_generations` are thoughts times answers.
        antithetic: Thoughts come in pairs with mirrored noise.
        max_at: k: credit a rollout with what it adds to the best of k; None: with its own reward.
        equal_groups: What becomes of groups whose rewards are all equal.
        budget: What a process draws at once.
    """

    noise: Noise | None = None
    estimator: Estimator = REPLAY
    answers_per_thought: int = 1
    antithetic: bool = False
    max_at: int | None = None
    equal_groups: Literal["keep", "drop", "resample"] = "keep"
    budget: Budget = ROLLOUTS


def decisions_of(config: LatentConfig) -> int:
    """Decisions of the stop head in the longest thought, one after each latent but the last; 0 without a stop head."""
    stops = config.stop_head and THOUGHT_SOURCES[config.thought_source].is_recurrent
    return max(config.num_latents - 1, 0) if stops else 0


def check_rollouts(rollouts: int, answers: int, antithetic: bool) -> int:
    """The number of rollouts of a thought, or of a pair of mirrored thoughts. A process draws whole ones only.

    Raises:
        EstimatorError: The rollouts of a process are no multiple of that number.
    """
    whole = answers * (2 if antithetic else 1)
    if rollouts % whole:
        raise EstimatorError(
            f"A process draws {rollouts} rollouts at a time, which is no multiple of {whole} (answers_per_thought, "
            "twice that if antithetic). Change rl.trainer.per_device_train_batch_size."
        )
    return whole


def draw_seeds(rollouts: int, answers: int, antithetic: bool) -> Tensor:
    """Seeds (B,) of B rollouts in order: `answers` in a row share a thought, two thoughts in a row mirror each other.

    Raises:
        EstimatorError: B does not hold whole thoughts, or pairs of them.
    """
    seeds = torch.randint(1, 2**62, (rollouts // check_rollouts(rollouts, answers, antithetic),))
    if antithetic:
        seeds = torch.stack([seeds, -seeds], 1).flatten()
    return seeds.repeat_interleave(answers)
