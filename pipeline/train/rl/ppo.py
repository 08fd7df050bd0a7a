"""PPO on latents: the rollouts, ratios and clipping of `LatentGRPOTrainer`, with a critic in place of the group.

An episode is the latents of a rollout, then its answer tokens; the reward comes with the last token. The critic is a
value head on the trunk, V(x, z_<=k) at latents and V(x, z, o_<t) at tokens. Advantages are generalised advantage
estimates (arXiv 1506.02438) over both kinds of steps. Which of them carry a policy gradient is up to the estimator:
with `replay` the tokens, through which it reaches the latents; with `score` the latents too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...latent.value_head import add_value_head
from ...model.reasoner import Reasoner
from .estimators import Rollout
from .grpo import LatentGRPOTrainer
from .watch import replay_gap

KL_GAIN, KL_CLIP = 0.1, 0.2  # arXiv 1909.08593, section 2.2


@dataclass(frozen=True)
class Critic:
    """Settings of PPO beyond those it shares with GRPO.

    Attributes:
        gamma: Discount a step.
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


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Advantages and returns (B, S): A_t = delta_t + gamma lam A_{t+1}, delta_t = r_t + gamma V_{t+1} - V_t.

    Args:
        rewards: (B, S) for each step.
        values: (B, S) of the state that each step was taken in.
        mask: (B, S) 1 at steps; what lies between them is passed over. After the last step the value is 0.
    """
    steps = mask.bool()
    advantages = torch.zeros_like(values)
    following = torch.zeros_like(values[:, 0])  # V_{t+1}
    carried = torch.zeros_like(following)  # A_{t+1}
    for t in reversed(range(values.size(1))):
        delta = rewards[:, t] + gamma * following - values[:, t]
        advantage = delta + gamma * lam * carried
        advantages[:, t] = torch.where(steps[:, t], advantage, 0.0)
        following = torch.where(steps[:, t], values[:, t], following)
        carried = torch.where(steps[:, t], advantage, carried)
    return advantages, (advantages + values) * steps


def value_loss(values: Tensor, old: Tensor, returns: Tensor, mask: Tensor, clip: float) -> Tensor:
    """Sum over steps of max((V - R)², (V_clipped - R)²) / 2, V_clipped within `clip` of the value of the rollout."""
    clipped = old + (values - old).clamp(-clip, clip)
    return 0.5 * (torch.maximum((values - returns).pow(2), (clipped - returns).pow(2)) * mask).sum()


class LatentPPOTrainer(LatentGRPOTrainer):
    """PPO whose rollouts think in latents before they answer. Groups play no part: `num_generations` only batches."""

    beta: float

    def __init__(self, reasoner: Reasoner, settings: Rollout, critic: Critic, **kwargs: Any) -> None:
        self.critic = critic
        if reasoner.model.value_head is None:
            add_value_head(reasoner.model, critic.detach_trunk)
        super().__init__(reasoner, settings, **kwargs)

    def _draw(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._steer_kl()
        output = super()._draw(inputs)
        logps, values = self._as_drawn(output)
        output["is_scored"] = self._mine(self._scored)
        mask = self._steps(output)
        last = mask.cumsum(1).argmax(1)  # the first place at which all steps have been counted
        rewards = torch.zeros_like(values)
        rewards[torch.arange(len(rewards)), last] = self._mine(self._rewards).to(values)
        rewards = rewards * mask
        advantages, returns = gae(rewards, values, mask, self.critic.gamma, self.critic.lam)
        if self.critic.whiten_advantages:
            advantages = self._whiten(advantages, mask)
        count = values.size(1) - output["completion_ids"].size(1)
        output |= {
            "old_per_token_logps": logps,
            "advantages": advantages[:, count:],
            "latent_advantages": advantages[:, :count],
            "old_values": values,
            "returns": returns,
            "num_steps_in_batch": self.accelerator.gather(mask.sum()).sum(),
        }
        self._observe(replay_gap(logps, output))
        if self.settings.estimator.scores and "latent_rms" not in output:
            output["old_latent_logps"], output["latent_rms"] = self._old_densities(output)
        residual, spread = self._moments(returns - values, mask)[1], self._moments(returns, mask)[1]
        explained = 1.0 - residual / spread if spread > 0 else 0.0
        self._metrics["train"]["value/explained_variance"].append(float(explained))
        return output

    @torch.no_grad()
    def _as_drawn(self, output: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Log-probs (B, A) of the answers and values (B, L + A) of the steps, under the weights that drew them."""
        ids = torch.cat([output["prompt_ids"], output["completion_ids"]], 1)
        mask = torch.cat([output["prompt_mask"], output["completion_mask"]], 1)
        size = self.args.per_device_train_batch_size
        logps, values = [], []
        for part in torch.arange(len(ids)).split(size):
            self._batch = {"noise_seeds": output["noise_seeds"][part]}
            found, _, _ = self._get_per_token_logps_and_entropies(
                self.model, ids[part], mask[part], output["completion_ids"].size(1)
            )
            logps.append(found)
            values.append(self._step_values(output["prompt_ids"][part], output["completion_ids"].size(1)))
        return torch.cat(logps), torch.cat(values)

    def _step_values(self, prompt_ids: Tensor, answers: int) -> Tensor:
        """Values (B, L + A) of the states before each latent and each answer token, from the latest forward."""
        assert self._state_values is not None
        before = torch.nn.functional.pad(self._state_values, (1, 0))[:, :-1]  # of the state before each column
        is_latent = prompt_ids == self.reasoner.config.token_ids[1]
        row, column = is_latent.nonzero(as_tuple=True)
        turn = (is_latent.cumsum(1) - 1)[row, column]
        latents = before.new_zeros(len(before), self._most_latents).index_put((row, turn), before[row, column])
        return torch.cat([latents, before[:, -answers:]], 1)

    def _steps(self, inputs: dict[str, Any]) -> Tensor:
        """Mask (B, L + A) of the steps of each rollout that was scored, latents first."""
        steps = torch.cat([self._latent_mask(inputs, self._most_latents), inputs["completion_mask"]], 1)
        return steps * inputs["is_scored"][:, None]

    @property
    def _most_latents(self) -> int:
        return self.reasoner.config.num_latents

    def _moments(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance over the steps (B, S) of all processes."""
        total = self.accelerator.reduce(torch.stack([(values * mask).sum(), mask.sum().to(values)]), "sum")
        mean = total[0] / total[1].clamp_min(1)
        # Of what is left when the mean is gone: a difference of squares would be all rounding where values are alike.
        squares = self.accelerator.reduce(((values - mean).pow(2) * mask).sum(), "sum")
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
        self._metrics["train"]["kl_coef"].append(beta)

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        loss = super()._compute_loss(model, inputs)
        values = self._step_values(inputs["prompt_ids"], inputs["completion_ids"].size(1))
        critic, mask = self.critic, self._steps(inputs)
        total = value_loss(values, inputs["old_values"], inputs["returns"], mask, critic.cliprange_value)
        # As TRL normalises per token: the steps of the generation batch, for one accumulation window of it.
        normalizer = inputs["num_steps_in_batch"].clamp(min=1) / self.accelerator.num_processes
        normalizer = normalizer * self.current_gradient_accumulation_steps / self.args.steps_per_generation
        self._observe({"value/loss": (total.detach() / mask.sum().clamp_min(1)).item()})
        return loss + critic.vf_coef * total / normalizer
