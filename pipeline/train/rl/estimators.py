"""How the reward of a rollout becomes a gradient of its latents, and how rollouts of a group are weighed.

With x the question, z_k the latents, o the answer, A the advantage of the rollout:

- `replay`: the action is (epsilon, o). Latents are made again from the same epsilon, with gradient through the
  recurrence; rho = pi_theta(o | x, epsilon) / pi_old(o | x, epsilon). p(epsilon) has no parameters. Blind where the
  answer no longer depends on the latents smoothly (a saturated head).
- `score`: the actions are z_1, ..., z_L, o. Latents are taken as they were drawn, and each counts as an action with
  log p(z_k | z_<k, x), the sum over its d dimensions. Its variance grows with d, and its ratios leave the clip range as
  soon as the weights move.
- `score_rsqrt_d`, `score_mean`: the same with log p(z_k) · d^-1/2 and log p(z_k) / d. Surrogates: not the gradient of
  the expected reward, but a lower variance. `score_mean` is what published work uses (CoLaR, arXiv 2505.16552).
- `mix:a`: a · replay + (1 - a) · score, with a in [0, 1].

The size of the noise counts as given in all of them: no gradient flows into rms(z). `replay`, `score` and `mix` are
unbiased on-policy where that size has no parameters: under `norm_matched`, whose latents all have the norm of the
embeddings, and for noise that does not use it. Elsewhere they are the gradient of the expected reward under noise of a
fixed size (docs/algorithm.md says how far that is off).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import comb
from typing import Literal

import torch
from torch import Tensor

from ....data.errors import UserError
from ...latent.noise import Noise

# Factor on the log-density of a latent of d dimensions.
WEIGHTS: dict[str, Callable[[int], float]] = {
    "score": lambda d: 1.0,
    "score_rsqrt_d": lambda d: d**-0.5,
    "score_mean": lambda d: 1.0 / d,
}


class EstimatorError(UserError):
    """An estimator that cannot be used as asked."""


@dataclass(frozen=True)
class Estimator:
    """A gradient estimator.

    Attributes:
        name: As the recipe says it.
        replay: Share of `replay`; the rest is `score`.
        weight: Key of `WEIGHTS`.
    """

    name: str
    replay: float
    weight: str = "score"

    @property
    def scores(self) -> bool:
        """Whether it needs the density of latents."""
        return self.replay < 1.0

    def parts(self) -> list[tuple[float, bool]]:
        """(share, whether it is the score part) of what makes up the loss."""
        return [(share, scored) for share, scored in ((self.replay, False), (1.0 - self.replay, True)) if share > 0]

    def weigh(self, logps: Tensor, hidden_size: int) -> Tensor:
        """Log-densities of latents as they count."""
        return logps * WEIGHTS[self.weight](hidden_size)


REPLAY = Estimator("replay", 1.0)


@dataclass(frozen=True)
class Rollout:
    """How a group of rollouts is drawn and what it is worth.

    Attributes:
        noise: On the latents; None: all rollouts of a question think the same.
        estimator: See `estimators`.
        answers_per_thought: Answers sampled after each thought; `num_generations` are thoughts times answers.
        antithetic: Thoughts come in pairs with mirrored noise.
        max_at: Credit a rollout with what it adds to the best of so many; None: with its own reward.
        equal_groups: What becomes of groups whose rewards are all equal.
    """

    noise: Noise | None = None
    estimator: Estimator = REPLAY
    answers_per_thought: int = 1
    antithetic: bool = False
    max_at: int | None = None
    equal_groups: Literal["keep", "drop", "resample"] = "keep"


def parse_estimator(spec: str) -> Estimator:
    """Reads `replay`, `score`, `score_rsqrt_d`, `score_mean`, or `mix:a`.

    Raises:
        EstimatorError: Anything else.
    """
    if spec == "replay":
        return REPLAY
    if spec in WEIGHTS:
        return Estimator(spec, 0.0, spec)
    kind, _, share = spec.partition(":")
    try:
        replay = float(share)
    except ValueError:
        replay = -1.0
    if kind != "mix" or not 0 <= replay <= 1:
        raise EstimatorError(f"Unknown estimator {spec!r}. Write replay, {', '.join(WEIGHTS)} or mix:a, a in 0..1.")
    return Estimator(spec, replay)


def check_estimator(estimator: Estimator, noise: Noise | None, has_sweeps: bool) -> None:
    """
    Args:
        has_sweeps: Latents are made in Jacobi sweeps.

    Raises:
        EstimatorError: Latents without a density for an estimator that needs one.
    """
    if not estimator.scores:
        return
    if noise is None or not noise.has_density or noise.first_only:
        raise EstimatorError(
            f"The estimator {estimator.name} needs noise with a density on every latent (gaussian or learned), but the "
            f"noise is {noise}. Change one of the two."
        )
    if has_sweeps:
        raise EstimatorError(
            f"The estimator {estimator.name} needs latents made one after the other. Remove latent.jacobi_sweeps."
        )


def max_at_k_advantages(rewards: Tensor, k: int) -> Tensor:
    """Advantages (P, G) whose gradient is that of E[max of k rewards], from groups (P, G) of rewards.

    A_i = E[max(r_i, k - 1 others)] - E[max of k others], over subsets of the other rollouts of the group: what rollout
    i adds, against a baseline that it has no part in. For k = 1 that is RLOO. Unbiased up to the factor k (the
    estimators of arXiv 2505.15201 with a baseline of the others).

    Raises:
        EstimatorError: k is no number from 1 to G - 1.
    """
    size = rewards.size(1)
    if not 1 <= k < size:
        raise EstimatorError(f"max_at={k} must lie between 1 and {size - 1}, one less than the group has rollouts.")
    others = torch.stack([rewards[:, [j for j in range(size) if j != i]] for i in range(size)], 1)  # (P, G, G - 1)
    others = others.sort(-1).values
    baseline = (others * _max_weights(size - 1, k).to(rewards)).sum(-1)
    if k == 1:
        return rewards - baseline
    best = torch.maximum(rewards[..., None], others)
    return (best * _max_weights(size - 1, k - 1).to(rewards)).sum(-1) - baseline


def thought_advantages(advantages: Tensor, group: int, answers: int) -> Tensor:
    """Advantages (B,) of the thoughts of rollouts, from those of the rollouts against the mean of their group.

    The mean of the thought's answers against the other thoughts of the group. The group's own mean holds answers after
    the same latents, which would take a share (answers - 1) / (group - 1) from their gradient.
    """
    thoughts = group // answers
    means = advantages.view(-1, answers).mean(1) * (thoughts / max(thoughts - 1, 1))
    return means.repeat_interleave(answers)


def _max_weights(n: int, k: int) -> Tensor:
    """Chance (n,) that each of n values, in ascending order, is the largest of k drawn without replacement."""
    return torch.tensor([comb(rank, k - 1) / comb(n, k) for rank in range(n)], dtype=torch.float64)


def check_rollouts(rollouts: int, answers: int, antithetic: bool) -> int:
    """Rollouts of a thought, or of a pair of mirrored ones, of which a process draws whole ones only.

    Raises:
        EstimatorError: The rollouts of a process are no multiple of them.
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
