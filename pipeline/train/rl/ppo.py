"""PPO on latents: the rollouts, ratios and clipping of `LatentGRPOTrainer`, with a critic in place of the group.

An episode is the latents of a rollout, then its answer tokens. The reward comes with the last token. The critic is a
value head on the trunk, V(x, z_<=k) at latents and V(x, z, o_<t) at tokens. Advantages are generalised advantage
estimates (`gae`) over both kinds of actions. The estimator says which of them carry a policy gradient: with `replay`
the tokens, through which it reaches the latents; with `score_function` the latents too.

A stop head decides in the state after latent k, which is also the state that latent k + 1 is made from. So "go on, and
latent k + 1" is one step with one value and one advantage, that of the decision and of the latent. "Stop" is a step of
its own, behind the latents of a thought that has fewer than L.

The critic judges the states of a rollout while it is drawn. `_draw` adds these values, advantages and returns to the
rollouts of GRPO. `_compute_loss` adds the loss of the critic (`value_loss`) to GRPO's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...latent.value_head import add_value_head, and_next
from ...model.reasoner import Reasoner
from ...system.compat import logged_metric
from .call_state import Drawn
from .gae import gae
from .grpo import LatentGRPOTrainer
from .rollouts import RolloutSettings
from .value_loss import action_values, value_loss

KL_GAIN, KL_CLIP = 0.1, 0.2  # arXiv 1909.08593, section 2.2


@dataclass(frozen=True)
class Critic:
    """Settings of PPO beyond those it shares with GRPO.

    Attributes:
        gamma: Discount an action.
        lam: Lambda of the advantage estimates.
        vf_coef: Weight of the value loss.
        cliprange_value: Largest change of a value that counts in one update.
        whiten_advantages: Centre advantages and scale them to variance 1, over all processes.
        detach_trunk: The value loss trains the head alone.
        kl_target: KL to the reference in nats a token that `beta` is steered to; None: `beta` stays.
    """

    gamma: float = 1.0
    lam: float = 0.95
    vf_coef: float = 0.5
    cliprange_value: float = 0.2
    whiten_advantages: bool = True
    detach_trunk: bool = True
    kl_target: float | None = None


class LatentPPOTrainer(LatentGRPOTrainer):
    """PPO whose rollouts think in latents before they answer. Groups play no part: `num_generations` only batches."""

    asks_values = True
    beta: float

    def __init__(self, reasoner: Reasoner, settings: RolloutSettings, critic: Critic, **kwargs: Any) -> None:
        self.critic = critic
        if reasoner.model.value_head is None:
            add_value_head(reasoner.model, critic.detach_trunk)
        super().__init__(reasoner, settings, **kwargs)

    def _draw(self, inputs: list[dict[str, Any]]) -> Drawn:
        self._steer_kl()
        drawn = super()._draw(inputs)
        rollouts = drawn.rollouts
        assert drawn.values is not None
        widths = self._most_latents, rollouts["completion_ids"].size(1)
        values = torch.cat([_as_wide(part, width) for part, width in zip(drawn.values, widths, strict=True)], 1)
        rollouts["is_scored"] = self._mine(drawn.is_scored)
        mask = self._actions(rollouts)
        last = mask.cumsum(1).argmax(1)  # the first place at which all actions have been counted
        rewards = torch.zeros_like(values)
        rewards[torch.arange(len(rewards)), last] = self._mine(drawn.rewards).to(values)
        advantages, returns = gae(rewards * mask, values, mask, self.critic.gamma, self.critic.lam)
        if self.critic.whiten_advantages:
            advantages = self._whiten(advantages, mask)
        count = values.size(1) - rollouts["completion_ids"].size(1)
        rollouts |= {
            "advantages": advantages[:, count:],
            "latent_advantages": advantages[:, :count],
            "old_values": values,
            "returns": returns,
            "num_actions_in_batch": self.accelerator.gather(mask.sum()).sum(),
        }
        if self.decisions:  # after latent k, with latent k + 1 or alone
            rollouts["stop_advantages"] = advantages[:, 1:count]
        residual, spread = self._moments(torch.stack([returns - values, returns]), mask)[1]
        self.watched.add("value/explained_variance", torch.where(spread > 0, 1.0 - residual / spread, 0.0))
        return drawn

    def _action_values(self, state_values: Tensor | None, prompt_ids: Tensor, answers: int) -> Tensor:
        assert state_values is not None
        is_latent = prompt_ids == self.reasoner.config.token_ids[1]
        return action_values(state_values, is_latent, answers, self._most_latents, self.decisions > 0)

    def _actions(self, rollouts: dict[str, Any]) -> Tensor:
        """Mask (B, L + A) of the actions of each rollout that was scored, those of its thought first."""
        thought = self._latent_mask(rollouts, self._most_latents).bool()
        if self.decisions:
            thought = and_next(thought)
        answers = rollouts["completion_mask"]
        return torch.cat([thought.to(answers), answers], 1) * rollouts["is_scored"][:, None]

    @property
    def _most_latents(self) -> int:
        return self.reasoner.config.num_latents

    def _moments(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance over the actions (B, S) of all processes, of values (..., B, S)."""
        sums = (values * mask).sum((-2, -1))
        total = self.accelerator.reduce(torch.stack([sums, mask.sum().to(sums).expand_as(sums)]), "sum")
        mean = total[0] / total[1].clamp_min(1)
        # Of what is left when the mean is gone: a difference of squares would be all rounding where values are alike.
        squares = (values - mean[..., None, None]).pow(2) * mask
        squares = self.accelerator.reduce(squares.sum((-2, -1)), "sum")
        return mean, squares / total[1].clamp_min(1)

    def _whiten(self, advantages: Tensor, mask: Tensor) -> Tensor:
        mean, variance = self._moments(advantages, mask)
        return (advantages - mean) / (variance + 1e-8).sqrt() * mask

    def _steer_kl(self) -> None:
        """Moves `beta` after every log towards what keeps the KL at its target; a resumed run reads the log again."""
        target, log = self.critic.kl_target, self.state.log_history
        if target is None:
            return
        logged = [row["kl_coef"] for row in log if "kl_coef" in row]
        kl = next((row["kl"] for row in reversed(log) if "kl" in row), None)
        beta = logged[-1] if logged else self.beta
        if kl is not None:
            error = min(max(kl / target - 1, -KL_CLIP), KL_CLIP)
            beta = beta * (1 + KL_GAIN * error)
        self.beta = beta
        logged_metric(self, "kl_coef").append(beta)

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        loss, state_values = self.policy_loss(model, inputs)
        values = self._action_values(state_values, inputs["prompt_ids"], inputs["completion_ids"].size(1))
        critic, mask = self.critic, self._actions(inputs)
        total = value_loss(values, inputs["old_values"], inputs["returns"], mask, critic.cliprange_value)
        # As TRL normalises per token: the actions of the generation batch, for one accumulation window of it.
        normalizer = inputs["num_actions_in_batch"].clamp(min=1) / self.accelerator.num_processes
        normalizer = normalizer * self.current_gradient_accumulation_steps / self.args.steps_per_generation
        self.watched.add("value/loss", total / mask.sum().clamp_min(1))
        return loss + critic.vf_coef * total / normalizer


def _as_wide(values: Tensor, width: int) -> Tensor:
    """Values (B, W) with zeros up to a width, that of what TRL pads."""
    return F.pad(values, (0, width - values.size(1)))
