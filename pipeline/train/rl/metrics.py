"""What is measured of rollouts while RL runs. Every name is explained in docs/metrics.md.

`LatentGRPOTrainer` adds what these functions return to its `watched`: where rollouts are drawn, where the loss is
computed, and before each log. Numbers stay tensors on the device until the log, so that nothing here waits for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...latent.geometry import effective_ranks
from ...latent.sampling.answers import Generated
from ..watched import Number
from .groups import equal_groups


def thought_metrics(drawn: Generated, rows: Tensor, embedding_rms: float) -> dict[str, Number]:
    """Metrics of the latents and answers of this process's rollouts.

    Args:
        rows: (B,) question of each rollout, on the CPU.
    """
    answers = [tuple(ids) for ids in drawn.token_ids]
    found: dict[str, Number] = {"rollout/distinct": len(set(zip(rows.tolist(), answers, strict=True))) / len(answers)}
    latents, made = drawn.latents.float(), drawn.num_latents
    if latents.size(1):
        found["latent/rms"] = (latents.pow(2).sum() / (made.sum() * latents.size(2))).sqrt() / embedding_rms
    if drawn.stop_logps is not None:
        most = drawn.stop_logps.size(1) + 1
        found["rollout/num_latents"] = made.float().mean()
        found["rollout/most_latents"] = (made == most).float().mean()
    return found


def reward_metrics(rewards: Tensor, is_scored: Tensor, answers_per_thought: int) -> dict[str, Number]:
    """Metrics of rewards.

    Args:
        rewards: (P, G) of the groups of all processes, the answers of a thought in a row. Where no reward function gave
            a reward, the mean of the group stands.
        is_scored: (P, G) True where one did.
    """
    metrics: dict[str, Number] = {
        "group/best": rewards.max(1).values.mean(),
        "group/mean": rewards.mean(),
        "group/mixed": (~equal_groups(rewards)).float().mean(),
        "group/unscored": (~is_scored).float().mean(),
    }
    if answers_per_thought > 1:
        thoughts = rewards.unflatten(1, (-1, answers_per_thought))  # (P, K, M)
        within = thoughts.var(2).mean()
        metrics["group/within_thoughts"] = within
        if thoughts.size(1) > 1:
            # The means of M answers vary by a share of the variance within thoughts, too.
            metrics["group/between_thoughts"] = thoughts.mean(2).var(1).mean() - within / answers_per_thought
    return metrics


def replay_metrics(logps: Tensor, inputs: Mapping[str, Any], stop_logps: Tensor | None = None) -> dict[str, Number]:
    """How far log-probs as sampled and as recomputed under the same weights are apart: sampler against trainer.

    With d = log p_sampler - log p_trainer of an answer token that the sampler drew, in nats: `rollout/replay_gap` is
    the largest |d|; `rollout/kl_k1`, the mean of d, and `rollout/kl_k2`, the mean of d² / 2, estimate
    KL(sampler || trainer) a token (Schulman, "Approximating KL Divergence", http://joschu.net/blog/kl-approx.html).
    The largest |d| is also over the decisions of a stop head.

    Args:
        logps: (B, A) as recomputed.
        inputs: TRL's batch, of which `sampling_per_token_logps` and `completion_mask` (B, A), and `stop_logps`
            (B, L - 1) where decisions were drawn, are read. Without a token in it all are 0.
        stop_logps: (B, L - 1) of the decisions, as recomputed.
    """
    is_answer = inputs["completion_mask"].bool()
    count = is_answer.sum().clamp_min(1)
    difference = torch.where(is_answer, inputs["sampling_per_token_logps"] - logps, 0.0)
    gaps = [difference] if stop_logps is None else [difference, inputs["stop_logps"] - stop_logps]
    largest = [gap.abs().max() for gap in gaps if gap.numel()]
    return {
        "rollout/replay_gap": torch.stack(largest).max() if largest else 0.0,
        "rollout/kl_k1": difference.sum() / count,
        "rollout/kl_k2": difference.pow(2).sum() / (2 * count),
    }


def ratio_sd(logps: Tensor, inputs: Mapping[str, Any]) -> Number:
    """Standard deviation of the importance ratios of answer tokens; 0 where each draw serves one optimizer step."""
    if "old_per_token_logps" not in inputs:
        return 0.0
    is_answer, ratios = inputs["completion_mask"].bool(), answer_ratios(logps, inputs)
    count = is_answer.sum().clamp_min(1)
    squares = torch.where(is_answer, ratios - ratios.sum() / count, 0.0).pow(2)
    return (squares.sum() / count).sqrt()


def answer_ratios(logps: Tensor, inputs: Mapping[str, Any]) -> Tensor:
    """Importance ratios (B, A) of answer tokens against the weights that drew them; 0 where there is no token."""
    return torch.where(inputs["completion_mask"].bool(), (logps - inputs["old_per_token_logps"]).exp(), 0.0)


class LatentGradients:
    """Collects, while a backward runs, the norm of the loss's gradient with respect to each latent.

    The sums stay on the device: a hook that waits for it would stop the backward at every latent.
    """

    def __init__(self, places: int) -> None:
        """
        Args:
            places: Latents of a thought.
        """
        self.places = places
        self.sums: Tensor | None = None  # (2, places + 1): norms, and their number

    def __call__(self, latent: Tensor, turn: Tensor) -> None:
        """Watches the latents (B, d) of a pass. `turn` (B,) is the index of each in its row, below 0 for none."""
        if latent.requires_grad:
            latent.register_hook(lambda gradient: self._keep(gradient, turn))

    def _keep(self, gradient: Tensor, turn: Tensor) -> None:
        norms = gradient.detach().float().norm(dim=-1)
        # Those that do not count go to one more place.
        place = torch.where((turn >= 0) & (turn < self.places), turn, self.places)
        if self.sums is None:
            self.sums = norms.new_zeros(2, self.places + 1)
        self.sums.index_add_(1, place, torch.stack([norms, torch.ones_like(norms)]))

    def take(self) -> dict[str, tuple[Number, Number]]:
        """The sum of norms and their number since the last call, as `latent/gradient_t` with t counted from 1."""
        sums, self.sums = self.sums, None
        if sums is None:  # as where another process has gradients
            return {f"latent/gradient_{place + 1}": (0.0, 0.0) for place in range(self.places)}
        return {f"latent/gradient_{place + 1}": (sums[0, place], sums[1, place]) for place in range(self.places)}


def spread_metrics(latents: Tensor | None, num_latents: Tensor | None = None) -> dict[str, Number]:
    """The effective rank of the latents (B, L, d) of one draw, averaged over places; nothing without latents.

    Args:
        num_latents: (B,) latents of each thought, where they differ: a place is that of the thoughts that have it.
    """
    if latents is None or latents.size(1) == 0:
        return {}
    if num_latents is None:
        return {"latent/effective_rank": effective_ranks(latents).mean()}
    places = range(int(num_latents.max()))
    ranks = [effective_ranks(latents[num_latents > place, place : place + 1]) for place in places]
    return {"latent/effective_rank": torch.cat(ranks).mean()}
