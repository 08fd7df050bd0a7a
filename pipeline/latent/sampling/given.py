"""Latents taken as they are: those of earlier rollouts with their density now, or others in place of a model's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..engine.layout import positions_of
from ..engine.precision import in_compute_dtype
from ..noise import Noise, rms
from ..supervision import States
from ..thoughts import Thought


@dataclass(frozen=True, eq=False)
class Replacement(Noise):
    """Other latents in place of those that the model makes: an intervention, in the form of a noise.

    Attributes:
        latents: (R, L, d); seed r of a sample names the row that it gets. Where they are NaN the model's own stay,
            made anew from what comes before them.
    """

    kind = "replacement"
    scale: float = 1.0
    latents: Tensor | None = None

    def sample(self, seed: int, num_latents: int, width: int) -> Tensor:
        assert self.latents is not None
        return self.latents[seed, :num_latents].float().cpu()

    def apply(self, thought: Thought, epsilon: Tensor) -> Tensor:
        return torch.where(epsilon.isnan(), thought.latent, epsilon.to(thought.latent.dtype))


@dataclass
class GivenLatents:
    """What a pass over given latents leaves.

    Attributes:
        states: As of any forward.
        logps: (B, L) log-density of the latents in nats, 0 beyond a row's count.
        rms: (B, L) root mean square of the latents before noise, detached.
    """

    states: States
    logps: Tensor
    rms: Tensor


@in_compute_dtype
def latent_states(model: Any, input_ids: Tensor, attention_mask: Tensor, latents: Tensor) -> Tensor:
    """Hidden states (B, L, d) after each of a row's latents (B, L, d), given and not made; zero beyond its last one.

    One pass over rows (B, T) with placeholders. The state after latent t knows the question and latents 1 to t.
    """
    row, column, turn = _placeholders(model, input_ids, attention_mask)
    hidden = _run(model, input_ids, attention_mask, positions_of(attention_mask), latents, (row, column, turn))
    states = hidden.new_zeros(*latents.shape[:2], hidden.size(-1))
    return states.index_put((row, turn), hidden[row, column])


def _placeholders(model: Any, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Row, column and place in its row of each placeholder (N,), in the order of the rows."""
    is_latent = (input_ids == model.latent_config.token_ids[1]) & attention_mask.bool()
    row, column = is_latent.nonzero(as_tuple=True)
    return row, column, (is_latent.cumsum(1) - 1)[row, column]


def _run(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    position_ids: Tensor,
    latents: Tensor,
    placeholders: tuple[Tensor, Tensor, Tensor],
) -> Tensor:
    """Hidden states (B, T) of the trunk on rows whose placeholders hold constant latents."""
    row, column, turn = placeholders
    embeds = model.get_input_embeddings()(input_ids)
    embeds = embeds.index_put((row, column), latents[row, turn].detach().to(embeds.dtype))
    output = model.base_model(
        inputs_embeds=embeds, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
    )
    return output.last_hidden_state


def given_latents(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    position_ids: Tensor,
    latents: Tensor,
    noise: Noise,
    latent_rms: Tensor | None,
) -> GivenLatents:
    """Runs rows (B, T) whose placeholders hold latents (B, L, d), the first ones of a row first."""
    row, column, turn = _placeholders(model, input_ids, attention_mask)
    hidden = _run(model, input_ids, attention_mask, position_ids, latents, (row, column, turn))
    # Padding lies outside a row, so the state a latent is made from is in the column before it.
    thought = model.thought_source(hidden[row, column - 1], model)
    size = latent_rms[row, turn, None] if latent_rms is not None else None
    logps = noise.log_prob(thought, latents[row, turn].detach(), size)
    columns = torch.arange(input_ids.size(1), device=input_ids.device).expand_as(input_ids)
    states = States(hidden, latents, columns)
    shape = latents.shape[:2]
    return GivenLatents(
        states,
        logps.new_zeros(shape).index_put((row, turn), logps),
        logps.new_zeros(shape).index_put((row, turn), rms(thought.latent).squeeze(-1)),
    )
