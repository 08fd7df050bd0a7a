"""What is measured of rollouts while RL runs. Every name is explained in docs/metrics.md.

`LatentGRPOTrainer._observe` logs what these functions return; it is called where rollouts are drawn, where the loss is
computed, and before each log.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...latent.geometry import effective_ranks
from ...latent.sampling.generate import Generated
from .groups import equal_groups


def thought_metrics(drawn: Generated, rows: Tensor, embedding_rms: float) -> dict[str, float]:
    """Metrics of the latents and answers of this process's rollouts.

    Args:
        rows: (B,) question of each rollout.
    """
    answers = [tuple(ids) for ids in drawn.token_ids]
    questions = rows.tolist()
    distinct = len(set(zip(questions, answers, strict=True))) / len(answers)
    latents = drawn.latents.float()
    if latents.size(1) == 0:
        return {"rollout/distinct": distinct}
    return {
        "rollout/distinct": distinct,
        "latent/rms": latents.pow(2).mean().sqrt().item() / embedding_rms,
        "latent/effective_rank": effective_ranks(latents).mean().item() if latents.isfinite().all() else float("nan"),
    }


def reward_metrics(rewards: Tensor, is_scored: Tensor, answers_per_thought: int) -> dict[str, float]:
    """Metrics of rewards.

    Args:
        rewards: (P, G) of the groups of all processes, the answers of a thought in a row. Where no reward function gave
            a reward, the mean of the group stands.
        is_scored: (P, G) True where one did.
    """
    metrics = {
        "group/best": rewards.max(1).values.mean().item(),
        "group/mean": rewards.mean().item(),
        "group/mixed": (~equal_groups(rewards)).float().mean().item(),
        "group/unscored": (~is_scored).float().mean().item(),
    }
    if answers_per_thought > 1:
        thoughts = rewards.unflatten(1, (-1, answers_per_thought))  # (P, K, M)
        within = thoughts.var(2).mean()
        metrics["group/within_thoughts"] = within.item()
        if thoughts.size(1) > 1:
            # The means of M answers vary by a share of the variance within thoughts, too.
            metrics["group/between_thoughts"] = (thoughts.mean(2).var(1).mean() - within / answers_per_thought).item()
    return metrics


def replay_metrics(logps: Tensor, inputs: Mapping[str, Any]) -> dict[str, float]:
    """How far log-probs as sampled and as recomputed under the same weights are apart: sampler against trainer.

    With d = log p_sampler - log p_trainer of an answer token that the sampler drew, in nats: `rollout/replay_gap` is
    the largest |d|; `rollout/kl_k1`, the mean of d, and `rollout/kl_k2`, the mean of d² / 2, estimate
    KL(sampler || trainer) a token (Schulman, "Approximating KL Divergence", http://joschu.net/blog/kl-approx.html).

    Args:
        logps: (B, A) as recomputed.
        inputs: TRL's batch, of which `sampling_per_token_logps` and `completion_mask` (B, A) are read. Without a token
            in it all are 0.
    """
    difference = (inputs["sampling_per_token_logps"] - logps)[inputs["completion_mask"].bool()]
    if len(difference) == 0:
        return dict.fromkeys(("rollout/replay_gap", "rollout/kl_k1", "rollout/kl_k2"), 0.0)
    return {
        "rollout/replay_gap": difference.abs().max().item(),
        "rollout/kl_k1": difference.mean().item(),
        "rollout/kl_k2": (difference.pow(2).mean() / 2).item(),
    }


def ratio_metrics(logps: Tensor | None, inputs: Mapping[str, Any]) -> dict[str, float]:
    """Standard deviation of the importance ratios of answer tokens. On-policy it is 0; the replay is measured then."""
    assert logps is not None
    if "old_per_token_logps" not in inputs:
        return {"ratio/sd": 0.0, **replay_metrics(logps, inputs)}
    ratios = (logps - inputs["old_per_token_logps"])[inputs["completion_mask"].bool()].exp()
    return {"ratio/sd": ratios.std(correction=0).item() if len(ratios) else 0.0}


class LatentGradients:
    """Collects, while a backward runs, the norm of the loss's gradient with respect to each latent."""

    def __init__(self) -> None:
        self.norms: dict[int, list[Tensor]] = {}

    def __call__(self, latent: Tensor, turn: Tensor) -> None:
        """Watches the latents (B, d) of a pass. `turn` (B,) is the index of each in its row, below 0 for none."""
        if latent.requires_grad:
            latent.register_hook(lambda gradient: self._keep(gradient, turn))

    def _keep(self, gradient: Tensor, turn: Tensor) -> None:
        norms = gradient.detach().float().norm(dim=-1)
        for place in turn[turn >= 0].unique().tolist():
            self.norms.setdefault(place, []).append(norms[turn == place].mean())

    def take(self) -> dict[str, float]:
        """The mean norms since the last call, as `latent/gradient_t` with t counted from 1."""
        found = {f"latent/gradient_{t + 1}": torch.stack(n).mean().item() for t, n in sorted(self.norms.items())}
        self.norms = {}
        return found


def averaged(accelerator: Any, metrics: dict[str, float]) -> dict[str, float]:
    """Means over the processes. All processes must give the same names."""
    if accelerator.num_processes == 1 or not metrics:
        return metrics
    values = torch.tensor(list(metrics.values()), device=accelerator.device)
    return dict(zip(metrics, accelerator.reduce(values, "mean").tolist(), strict=True))
