"""One pass over latents that are given: the states after them, and their density under a noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..batch import Batch, Given
from ..engine.columns import Visibility
from ..engine.layout import plan_split
from ..engine.masks import whole_mask
from ..engine.packed import Packed, shared_questions
from ..engine.passes import run_split
from ..engine.precision import in_compute_dtype
from ..loss import in_batch_order
from ..noise import rms
from ..supervision import States


@dataclass
class GivenStates:
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
    """Hidden states (B, L, d) after each of the given latents (B, L, d) of a row; zero beyond its last one.

    One pass over rows (B, T) with placeholders. The state after latent t knows of the question and latents 1 to t what
    latents see.
    """
    batch = Batch.of(input_ids, attention_mask, model.latent_config.token_ids[1])
    row, column, turn = _placeholders(batch)
    hidden = _run(model, batch, latents, (row, column, turn))
    states = hidden.new_zeros(*latents.shape[:2], hidden.size(-1))
    return states.index_put((row, turn), hidden[row, column])


def take_given(model: Any, batch: Batch, given: Given, is_rest: Tensor | None = None) -> GivenStates:
    """Runs rows whose placeholders hold the given latents, a row's first latent first.

    Args:
        is_rest: (B, T) True after the question, where rows that begin alike share their question; None: they do not.
    """
    row, column, turn = _placeholders(batch)
    hidden = _run(model, batch, given.latents, (row, column, turn), is_rest)
    # Padding lies outside a row, so the state that a latent is made from is in the column before it.
    thought = model.thought_source(hidden[row, column - 1], model)
    size = given.rms[row, turn, None] if given.rms is not None else None
    logps = given.noise.log_prob(thought, given.latents[row, turn].detach(), size)
    columns = torch.arange(hidden.size(1), device=hidden.device).expand(hidden.shape[:2])
    shape = given.latents.shape[:2]
    return GivenStates(
        States(hidden, given.latents, columns),
        logps.new_zeros(shape).index_put((row, turn), logps),
        logps.new_zeros(shape).index_put((row, turn), rms(thought.latent).squeeze(-1)),
    )


def _placeholders(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Row, column, and index in its row of each placeholder (N,), in the order of the rows."""
    row, column = batch.is_latent.nonzero(as_tuple=True)
    return row, column, (batch.is_latent.cumsum(1) - 1)[row, column]


def split_states(trunk: Any, batch: Batch, embeds: Tensor, is_rest: Tensor, visibility: Visibility | None) -> States:
    """States of rows in which nothing is fed back. Rows that begin alike run what comes before `is_rest` (B, T) once.

    Args:
        embeds: (B, T, d)
    """
    layout = plan_split(is_rest, batch.is_latent, batch.attention_mask)
    positions = batch.position_ids.gather(1, layout.source)
    shared = shared_questions(batch.input_ids, positions, layout, pieces=1)
    packed_embeds = embeds.gather(1, layout.source[..., None].expand(-1, -1, embeds.size(-1)))
    hidden = run_split(trunk, Packed(layout, packed_embeds, positions, visibility=visibility, shared=shared))
    return States(hidden, hidden.new_zeros(len(hidden), 0, hidden.size(-1)), layout.packed_column)


def _run(
    model: Any,
    batch: Batch,
    latents: Tensor,
    placeholders: tuple[Tensor, Tensor, Tensor],
    is_rest: Tensor | None = None,
) -> Tensor:
    """Hidden states (B, T, d) of the trunk on rows whose placeholders hold constant latents."""
    row, column, turn = placeholders
    embeds = model.get_input_embeddings()(batch.input_ids)
    embeds = embeds.index_put((row, column), latents[row, turn].detach().to(embeds.dtype))
    if is_rest is not None:
        return in_batch_order(split_states(model.base_model, batch, embeds, is_rest, model.visibility))
    output = model.base_model(
        inputs_embeds=embeds,
        attention_mask=whole_mask(
            model.base_model, batch.attention_mask, batch.is_latent, model.visibility, embeds.dtype
        ),
        position_ids=batch.position_ids,
        use_cache=False,
    )
    return output.last_hidden_state
