"""What is measured of rollouts while RL runs. Every name is explained in docs/metrics.md.

`LatentTrainer._observe` logs what these functions return; it is called where rollouts are drawn, where the loss is
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
    latents, made = drawn.latents.float(), drawn.num_latents
    most = latents.size(1)
    if most == 0:
        return {"rollout/distinct": distinct}
    metrics = {
        "rollout/distinct": distinct,
        "latent/rms": (latents.pow(2).sum() / (made.sum() * latents.size(2))).sqrt().item() / embedding_rms,
        "latent/effective_rank": _effective_rank(latents, made) if latents.isfinite().all() else float("nan"),
    }
    if drawn.stop_logps is not None:
        metrics |= {
            "rollout/num_latents": made.float().mean().item(),
            "rollout/most_latents": (made == most).float().mean().item(),
        }
    return metrics


def _effective_rank(latents: Tensor, made: Tensor) -> float:
    """Mean over the places of thoughts (B, L, d), each among the thoughts that have so many latents (B,)."""
    ranks = [effective_ranks(latents[made > place, place : place + 1]) for place in range(int(made.max()))]
    return torch.cat(ranks).mean().item()


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


def replay_gap(logps: Tensor, inputs: Mapping[str, Any], stop_logps: Tensor | None = None) -> dict[str, float]:
    """Largest difference in nats between log-probs as sampled and as recomputed under the same weights.

    Args:
        logps: (B, A) of answer tokens.
        stop_logps: (B, L - 1) of the decisions of a stop head, where they were drawn.
    """
    gaps = [(logps - inputs["sampling_per_token_logps"]).abs() * inputs["completion_mask"]]
    if "stop_logps" in inputs:
        gaps.append((stop_logps - inputs["stop_logps"]).abs())
    return {"rollout/replay_gap": max(gap.max().item() if gap.numel() else 0.0 for gap in gaps)}


def ratio_metrics(
    logps: Tensor | None, inputs: Mapping[str, Any], stop_logps: Tensor | None = None
) -> dict[str, float]:
    """Standard deviation of the importance ratios of answer tokens. On-policy it is 0, and the gap of the replay is
    measured here."""
    assert logps is not None
    if "old_per_token_logps" not in inputs:
        return {"ratio/sd": 0.0, **replay_gap(logps, inputs, stop_logps)}
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

    def take(self, accelerator: Any, most_latents: int) -> dict[str, float]:
        """The mean norms since the last call, as `latent/gradient_t` with t counted from 1.

        Means over all processes, where a process may have had no thought as long as others.

        Args:
            most_latents: L of the longest thought.
        """
        of = [self.norms.get(place, []) for place in range(most_latents)]
        self.norms = {}
        if most_latents == 0:
            return {}
        sums = [[float(sum(norms)), float(len(norms))] for norms in of]
        totals = accelerator.reduce(torch.tensor(sums, device=accelerator.device), "sum").tolist()
        return {f"latent/gradient_{place}": total / n for place, (total, n) in enumerate(totals, 1) if n}


def averaged(accelerator: Any, metrics: dict[str, float]) -> dict[str, float]:
    """Means over the processes. All processes must give the same names."""
    if accelerator.num_processes == 1 or not metrics:
        return metrics
    values = torch.tensor(list(metrics.values()), device=accelerator.device)
    return dict(zip(metrics, accelerator.reduce(values, "mean").tolist(), strict=True))
