"""What TRL's hooks hand each other during one call of TRL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass
class Work:
    """The work that one call of TRL does through our hooks.

    TRL calls hooks from inside its own methods and gives them no argument for this. `Working.working` opens a Work
    around each such call and closes it afterwards, so nothing here outlives the call. There are two kinds of calls:
    drawing rollouts (`_draw`), and computing one part of the loss (`policy_loss`).

    Attributes:
        rollouts: Tensors over the B rollouts: `noise_seeds` and `questions` (B,), `latents` (B, L, d) where their
            density counts, and `stop_logps` (B, L - 1) where a stop head drew.
            `_generate_single_turn` writes them when it draws. For a part of the loss it is TRL's whole batch, of which
            `latent_rms` and `slot_labels` are read too and `ref_per_token_logps` is overwritten at latents.
        latents_act: Latents are actions. The caller says so.
        others: Columns of actions that follow the A of the answers: L latents, where these act, then the L - 1
            decisions of a stop head. The caller says so.
        knows_old: TRL's next request for log-probs needs no answer: it is for those of the weights that drew the
            rollouts, which are known from the sampler. The caller says so, and the hook that TRL asks takes it back.
        rewards: (P, G) of the groups of all processes. `_calculate_rewards` writes them.
        is_scored: (P, G) False where no reward function gave a reward. Written with `rewards`.
        num_latents: (B,) latents of each rollout, where a stop head drew them. Written with `rollouts`.
        values: (B, L) and (B, A) values before each latent and token, where a critic was asked. Written with
            `rollouts`.
        thoughts: What is read in the first rollouts, if the table of rollouts is due. Written with `rollouts`.
        logps: (B, A) of the latest forward, detached. `_get_per_token_logps_and_entropies` writes them.
        stop_logps: (B, L - 1) of the latest forward, detached. The same hook writes them.
        supervision_loss: Mean loss of the labels on latents in the latest replay, where it has a gradient and labels.
            The same hook writes it.
        state_values: (B, T) of the latest forward, where there is a value head. The same hook writes them.
    """

    rollouts: dict[str, Any] = field(default_factory=dict)
    latents_act: bool = False
    others: int = 0
    knows_old: bool = False
    rewards: Tensor | None = None
    is_scored: Tensor | None = None
    num_latents: list[int] | None = None
    values: tuple[Tensor, Tensor] | None = None
    thoughts: list[str] | None = None
    logps: Tensor | None = None
    stop_logps: Tensor | None = None
    supervision_loss: Tensor | None = None
    state_values: Tensor | None = None


@dataclass
class Drawn:
    """A batch of rollouts.

    Attributes:
        rollouts: This process's, as TRL shuffles, splits and buffers them.
        rewards: (P, G) of the groups of all processes.
        is_scored: (P, G) False where no reward function gave a reward.
        values, thoughts: As in `Work`.
    """

    rollouts: dict[str, Any]
    rewards: Tensor
    is_scored: Tensor
    values: tuple[Tensor, Tensor] | None = None
    thoughts: list[str] | None = None


class Working:
    """A mix-in for Trainers of TRL: the work of the present call."""

    _work: Work | None = None

    @contextmanager
    def working(self, work: Work) -> Iterator[Work]:
        """Hands a work to the hooks that TRL calls inside the block."""
        self._work, before = work, self._work
        try:
            yield work
        finally:
            self._work = before

    @property
    def work(self) -> Work:
        """The work of the present call of TRL."""
        assert self._work is not None, "TRL calls hooks inside `working` only"
        return self._work
