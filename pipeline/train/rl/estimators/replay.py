"""`replay`: the action is (epsilon, o), the noise and the answer.

Latents are made again from the same epsilon, with gradient through the recurrence, and the ratio of PPO and GRPO is
rho = pi_theta(o | x, epsilon) / pi_old(o | x, epsilon). p(epsilon) has no parameters. The estimator is blind where the
answer no longer depends smoothly on the latents (a saturated head).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ....latent.batch import Draw
from ....latent.label_scores import Score
from ..logps import ActionLogps, Answers, answer_logps
from .base import Estimator

REPLAY = Estimator("replay", 1.0)


def replayed_logps(
    model: Any,
    answers: Answers,
    draw: Draw | None,
    temperature: float,
    special: tuple[int, int, int],
    slot_labels: Tensor | None = None,
    share_questions: bool = True,
) -> ActionLogps:
    """Log-probs and entropies (B, A) of answers whose latents are made again.

    Args:
        special: Token ids of the latent tokens, which are never sampled.
        slot_labels: (B, T) labels of latents, see `step_labels`; None: their loss is not computed.
        share_questions: Rollouts of one question run it once, with gradient.
    """
    output = model(
        input_ids=answers.ids,
        attention_mask=answers.mask,
        labels=answers.labels,
        noise=draw.noise if draw is not None else None,
        noise_seeds=draw.seeds if draw is not None else None,
        share_questions=share_questions,
        score=Score(temperature, special),
        supervision_inputs={"slot_labels": slot_labels} if slot_labels is not None else None,
    )
    logps, entropies = answer_logps(output.logps, output.entropies, answers)
    return ActionLogps(
        logps, entropies, output.get("state_values"), output.get("supervision_loss"), output.get("stop_logps")
    )
