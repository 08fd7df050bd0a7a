"""`score_function`: the actions are z_1, ..., z_L and o, the latents and the answer.

Latents are taken as they were drawn, and each counts as an action with log p(z_k | z_<k, x), the sum over its d
dimensions (REINFORCE). The variance grows with d, and the ratios leave the clip range as soon as the weights move.

`score_function_rsqrt_d` and `score_function_mean` use log p(z_k) / sqrt(d) and log p(z_k) / d. These are surrogates:
not the gradient of the expected reward, but of lower variance. The mean is what published work uses (CoLaR, arXiv
2505.16552).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ....latent.batch import Given
from ....latent.label_scores import Score
from ..logps import ActionLogps, Answers, answer_logps
from .base import Estimator

SCORE_FUNCTION = Estimator("score_function", 0.0)
SCORE_FUNCTION_RSQRT_D = Estimator("score_function_rsqrt_d", 0.0, lambda d: d**-0.5)
SCORE_FUNCTION_MEAN = Estimator("score_function_mean", 0.0, lambda d: 1.0 / d)


def density_logps(
    model: Any, estimator: Estimator, answers: Answers, given: Given, temperature: float, special: tuple[int, int, int]
) -> ActionLogps:
    """Log-probs (B, A + L) of answer tokens, then weighted log-densities of the latents.

    Args:
        special: Token ids of the latent tokens, which are never sampled.
    """
    output = model(
        input_ids=answers.ids,
        attention_mask=answers.mask,
        labels=answers.labels,
        given=given,
        share_questions=True,
        score=Score(temperature, special),
    )
    logps, entropies = answer_logps(output.logps, output.entropies, answers)
    densities = estimator.weigh(output.latent_logps, given.latents.size(-1))
    found = ActionLogps(logps, entropies, output.get("state_values"), stop_logps=output.get("stop_logps"))
    return found.beside(densities, answers)


@torch.no_grad()
def drawn_densities(
    model: Any, estimator: Estimator, answers: Answers, given: Given, size: int
) -> tuple[Tensor, Tensor]:
    """Weighted log-densities of latents and their RMS before noise, (B, L) each, under the present weights.

    Args:
        size: Rows of a forward.
    """
    found = []
    for part in torch.arange(len(answers.ids)).split(size):
        some = answers.select(part)
        output = model(
            input_ids=some.ids,
            attention_mask=some.mask,
            labels=torch.full_like(some.ids, -100),  # answers are not scored
            given=Given(given.latents[part], given.noise),
            share_questions=True,
        )
        found.append((output.latent_logps, output.latent_rms))
    logps, rms = (torch.cat(values) for values in zip(*found, strict=True))
    return estimator.weigh(logps, given.latents.size(-1)), rms
