"""Sampling: latents, then an answer, for a batch of prompts with a KV cache.

A sample depends on the weights, the prompt and its seed only. Noise and token draws come from the seed, so a sample
does not change with its batch, with the number of processes, or with a resume. Samples of one prompt and one seed share
their thought, and each draws an answer of its own: the m-th of them is always the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from ..batch import Batch, Draw
from ..engine.layout import Layout
from ..engine.packed import Keep, PassResult, Stop
from ..engine.precision import in_compute_dtype
from ..noise import Noise
from ..stopping import StopDraws
from ..thoughts import THOUGHT_SOURCES
from ..value_head import thought_values
from .answers import Generated, SamplingParams, write_answers
from .budget import NO_LIMIT, Budget, Room


def pad_left(rows: Sequence[Sequence[int]], value: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask (B, T) of ragged rows, padded on the left."""
    ids = pad_sequence([torch.tensor(row[::-1]) for row in rows], batch_first=True, padding_value=value).flip(1)
    lengths = torch.tensor([len(row) for row in rows])
    mask = torch.arange(ids.size(1))[None] >= (ids.size(1) - lengths)[:, None]
    return ids.to(device), mask.long().to(device)


@torch.no_grad()
@in_compute_dtype
def generate(
    model: PreTrainedModel,
    prompt_ids: Sequence[Sequence[int]],
    rows: Tensor,
    seeds: Tensor,
    sampling: SamplingParams,
    noise: Noise | None,
    eos_token_ids: Sequence[int],
    budget: Budget = NO_LIMIT,
) -> Generated:
    """Samples N answers from B prompts. Equal prompts are prefilled once, and equal thoughts are computed once.

    Args:
        model: A latent reasoner, unwrapped, with its weights at hand or gathered in turn (`synced_passes`). The
            caller has called `noise.prepare`.
        prompt_ids: B prompts as token ids, latent placeholders included.
        rows: (N,) prompt of each answer.
        seeds: (N,) one seed per answer.
        budget: What is drawn at once. More answers are drawn in parts, and are the same ones.

    Raises:
        BudgetError: One answer does not fit into the budget, or there was too little memory.
    """
    _, thought, number = _share_thoughts(rows, seeds, noise is not None or _draws_stops(model, sampling))
    room = Room.of(model, prompt_ids, len(rows), sampling.max_new_tokens, budget)
    parts, drawn = room.parts(rows, thought), []
    for part in parts:
        found, row = rows[part].unique(return_inverse=True)
        used = found.tolist()
        prompts = [prompt_ids[at] for at in used]
        with room.explaining(len(part), used):
            drawn.append(_generate(model, prompts, row, seeds[part], number[part], sampling, noise, eos_token_ids))
    return Generated.joined(drawn, parts)


def _generate(
    model: PreTrainedModel,
    prompt_ids: Sequence[Sequence[int]],
    rows: Tensor,
    seeds: Tensor,
    number: Tensor,
    sampling: SamplingParams,
    noise: Noise | None,
    eos_token_ids: Sequence[int],
) -> Generated:
    """A part of `generate`, in one batch.

    Args:
        number: (N,) tells answers of equal prompts and seeds apart.
    """
    device = model.device
    ids, mask = pad_left(prompt_ids, eos_token_ids[0], device)
    stops = _draws_stops(model, sampling)
    thoughts, thought, _ = _share_thoughts(rows, seeds, noise is not None or stops)
    batch = Batch.of(ids, mask, model.latent_config.token_ids[1])
    stop = _stop_of(model, batch, seeds[thoughts].to(device), stops)
    prefill, state, values = prefill_prompts(
        model, batch, rows[thoughts].to(device), seeds[thoughts], noise, sampling.max_new_tokens, stop, sampling.values
    )
    thought = thought.to(device)
    if len(thoughts) < len(rows):
        prefill, state = prefill.select(thought), state[thought]
    drawn = write_answers(model, prefill, state, seeds, number, sampling, eos_token_ids)
    return replace(
        drawn,
        stop_logps=stop.logps[thought] if isinstance(stop, StopDraws) else None,
        latent_values=None if values is None else values[thought],
    )


def _draws_stops(model: PreTrainedModel, sampling: SamplingParams) -> bool:
    """Whether a thought also depends on the decisions of a stop head, which come from its seed."""
    return sampling.draws_stops and model.stop_head is not None


def _stop_of(model: PreTrainedModel, batch: Batch, seeds: Tensor, is_drawn: bool) -> Stop | None:
    """What ends thoughts before their last placeholder; None without a stop head."""
    if model.stop_head is None:
        return None
    return StopDraws(model.stop_head, seeds, int(batch.is_latent.sum(1).max())) if is_drawn else model.is_complete


def _share_thoughts(rows: Tensor, seeds: Tensor, is_random: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Finds answers that share a thought: the same prompt and, where thoughts are random, the same seed.

    Returns:
        thoughts: (K,) one answer of each different thought.
        thought: (N,) the thought of each answer, as an index into `thoughts`.
        number: (N,) answers of the same prompt and seed before each answer.
    """
    different: dict[tuple[int, int], int] = {}
    before: dict[tuple[int, int], int] = {}
    first: list[int] = []
    thought: list[int] = []
    number: list[int] = []
    for index, (row, seed) in enumerate(zip(rows.tolist(), seeds.tolist(), strict=True)):
        key = (row, seed if is_random else 0)
        if key not in different:
            different[key] = len(first)
            first.append(index)
        thought.append(different[key])
        number.append(before.get((row, seed), 0))
        before[row, seed] = number[-1] + 1
    return torch.tensor(first), torch.tensor(thought), torch.tensor(number)


class Prefill(NamedTuple):
    """The passes over prompts with their latents, for N thoughts.

    Attributes:
        result: Of the passes.
        state: (N, d) after each prompt's last token.
        values: (N, L) as `Generated.latent_values`.
    """

    result: PassResult
    state: Tensor
    values: Tensor | None = None


def prefill_prompts(
    model: PreTrainedModel,
    batch: Batch,
    rows: Tensor,
    seeds: Tensor,
    noise: Noise | None,
    max_new_tokens: int,
    stop: Stop | None = None,
    values: bool = False,
) -> Prefill:
    """All passes over the prompts; the shared part of equal prompts runs once.

    Args:
        rows: (N,) prompt of each thought.
        seeds: (N,)
        values: The value head says what it expects before each latent.
    """
    is_recurrent = THOUGHT_SOURCES[model.latent_config.thought_source].is_recurrent
    num_latents = int(batch.is_latent.sum(1).max()) if is_recurrent else 0
    draw = Draw(noise, seeds) if noise is not None and num_latents else None
    each: Tensor | None = rows
    if draw is not None and draw.noise.moves_question:  # each of them reads its question with a draw of its own
        batch, each = batch.select(rows), None
    result, layout = model.run_latents(batch, num_latents, draw, each, Keep(spare=max_new_tokens), stop)
    found = _latent_values(model, batch, each, result, layout, isinstance(stop, StopDraws)) if values else None
    return Prefill(result, result.last_state(), found)


def _latent_values(
    model: PreTrainedModel, batch: Batch, rows: Tensor | None, result: PassResult, layout: Layout, decides: bool
) -> Tensor:
    """Values (N, L) of the states before each latent, see `thought_values`."""
    is_latent, column = batch.is_latent, layout.packed_column
    if rows is not None:
        is_latent, column = is_latent[rows], column[rows]
    most = int(is_latent.sum(1).max())
    if result.latents.size(1):  # what no thought is made of, as pauses, is never left out
        is_latent = is_latent & (is_latent.cumsum(1) <= result.num_latents[:, None])
    return thought_values(model.value_head(result.hidden).gather(1, column), is_latent, most, decides)
