"""The sequential passes of latent reasoning: run a layout through the trunk with a KV cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from .layout import Layout

Think = Callable[[Tensor], Tensor]


@dataclass
class PassResult:
    """What the passes leave behind.

    Attributes:
        hidden: (B, S, d) last hidden states in packed order.
        latents: (B, L, d) the vectors fed back, in each row's own order; zero beyond a row's count.
        cache: Keys and values of all packed cells.
        mask: (B, S) 1 where the packed cell holds a token.
        next_position: (B,) position id of the token that would come next.
    """

    hidden: Tensor
    latents: Tensor
    cache: DynamicCache
    mask: Tensor
    next_position: Tensor


def run_passes(
    trunk: nn.Module,
    think: Think,
    layout: Layout,
    embeds: Tensor,
    position_ids: Tensor,
    noise: Callable[[Tensor, Tensor], Tensor] | None = None,
    epsilon: Tensor | None = None,
    rows: Tensor | None = None,
) -> PassResult:
    """Runs the passes of a layout. One call is one forward: gradients flow through every latent.

    Args:
        trunk: The decoder without its head.
        think: Makes a latent (B, d) from the last hidden state (B, d).
        embeds: (B, S, d) embeddings of the packed ids; cells of latent placeholders are replaced.
        position_ids: (B, S) of the packed cells.
        noise: Puts epsilon (B, d) on a latent (B, d).
        epsilon: (B, L, d) standard draws in each row's own order.
        rows: (N,) repeats rows of the batch after the first pass: N answers share the prefill of B questions. All
            other results, and epsilon, are then over N rows.
    """
    cache = DynamicCache(config=trunk.config)
    mask, is_latent, counts = layout.is_token.long(), layout.is_latent, layout.counts
    hidden: list[Tensor] = []
    latents: list[Tensor] = []
    last: Tensor | None = None
    for index, (start, end) in enumerate(layout.bounds):
        x = embeds[:, start:end]
        if index > 0:
            assert last is not None
            z = think(last)
            if noise is not None and epsilon is not None:
                turn = (index - layout.num_passes + counts).clamp_min(0)  # (B,) which latent of its row this is
                z = noise(z, epsilon[torch.arange(len(turn), device=turn.device), turn])
            latents.append(z)
            x = torch.where(is_latent[:, start:end, None], z[:, None].to(x.dtype), x)
        states = trunk(
            inputs_embeds=x,
            attention_mask=mask[:, :end],
            position_ids=position_ids[:, start:end],
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        keep = states[:, -1]
        # A row without a token in this pass keeps the state its next latent is made from.
        last = keep if last is None or layout.has_tokens[index] else torch.where(mask[:, end - 1, None] > 0, keep, last)
        hidden.append(states)
        if index == 0 and rows is not None:
            cache.batch_select_indices(rows)
            hidden, last = [states[rows]], last[rows]
            mask, is_latent, counts = mask[rows], is_latent[rows], counts[rows]
            embeds, position_ids = embeds[rows], position_ids[rows]
    next_position = (position_ids * mask).amax(1) + 1
    return PassResult(torch.cat(hidden, 1), _in_row_order(latents, counts, embeds), cache, mask, next_position)


def _in_row_order(latents: list[Tensor], counts: Tensor, embeds: Tensor) -> Tensor:
    """Stacks latents by pass (B, d) each, and shifts every row so that its first latent comes first: (B, L, d)."""
    if not latents:
        return embeds.new_zeros(embeds.size(0), 0, embeds.size(2))
    stacked = torch.stack(latents, 1)
    turn = torch.arange(len(latents), device=counts.device)[None]  # (1, L)
    index = (turn + len(latents) - counts[:, None]).clamp_max(len(latents) - 1)
    return stacked.gather(1, index[..., None].expand_as(stacked)) * (turn < counts[:, None])[..., None]
