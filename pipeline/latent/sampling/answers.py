"""Answers after thoughts, drawn token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ..config import ModelError
from ..engine.packed import PassResult
from ..engine.precision import in_compute_dtype, precise
from ..philox import Stream, uniform
from ..thoughts import suppress

# Tokens from one look at which answers have ended to the next, by kind of device. A look waits for the device; on a CPU
# there is nothing to wait for.
LOOKS, LOOKS_ELSEWHERE = {"cpu": 1}, 8


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn, and where thoughts end. temperature 0 takes the most likely token.

    Attributes:
        draws_stops: The decisions of a stop head are drawn, whatever the temperature; else the likelier one is taken.
        values: The value head says what it expects before each latent and each token.

    Raises:
        ModelError: max_new_tokens below 1.
    """

    temperature: float = 0.0
    max_new_tokens: int = 32
    top_k: int = 0
    top_p: float = 1.0
    min_p: float | None = None
    draws_stops: bool = False
    values: bool = False

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ModelError(f"max_new_tokens={self.max_new_tokens} leaves no room for an answer. Give at least 1.")

    def warpers(self) -> LogitsProcessorList:
        warpers = LogitsProcessorList()
        if self.temperature not in (0.0, 1.0):
            warpers.append(TemperatureLogitsWarper(self.temperature))
        if self.top_k:
            warpers.append(TopKLogitsWarper(self.top_k))
        if self.top_p < 1.0:
            warpers.append(TopPLogitsWarper(self.top_p))
        if self.min_p is not None:
            warpers.append(MinPLogitsWarper(self.min_p))
        return warpers


@dataclass
class Generated:
    """N sampled answers.

    Attributes:
        token_ids: N answers, each with its end-of-sequence token where it has one.
        logprobs: (N, A) log-probability in nats of each answer token at the sampling temperature (at 1 for greedy),
            before top-k, top-p or min-p; 0 after an answer's end.
        latents: (N, L, d) the vectors fed back, zero beyond a row's count.
        num_latents: (N,) latents of each row; fewer than its placeholders where the stop head ended the thought.
        seeds: (N,) replay noise and tokens.
        stop_logps: (N, L - 1) log-probs in nats of the stop head's decisions, where they were drawn.
        latent_values: (N, L) values of the states before each latent, as `thought_values` gives them, where the value
            head was asked.
        token_values: (N, A) of those before each answer token; 0 after an answer's end.
    """

    token_ids: list[list[int]]
    logprobs: Tensor
    latents: Tensor
    num_latents: Tensor
    seeds: Tensor
    stop_logps: Tensor | None = None
    latent_values: Tensor | None = None
    token_values: Tensor | None = None

    @classmethod
    def joined(cls, parts: Sequence[Generated], answers: Sequence[Tensor]) -> Generated:
        """One draw of its parts, which hold answers (N',) of it each. What is shorter in a part gets zeros."""
        if len(parts) == 1:
            return parts[0]
        back = torch.cat(list(answers)).argsort()

        def whole(values: Sequence[Any]) -> Any:
            if values[0] is None:
                return None
            if isinstance(values[0], Tensor):
                return torch.cat(_equally_wide(values))[back.to(values[0].device)]
            rows = [row for value in values for row in value]
            return [rows[at] for at in back.tolist()]

        return cls(**{field.name: whole([getattr(part, field.name) for part in parts]) for field in fields(cls)})


def _equally_wide(parts: Sequence[Tensor]) -> list[Tensor]:
    """Tensors (N, W, ...), each with its own W, with zeros up to the widest; those of one dimension as they are."""
    if parts[0].dim() == 1:
        return list(parts)
    width = max(part.size(1) for part in parts)
    return [torch.cat([part, part.new_zeros(len(part), width - part.size(1), *part.shape[2:])], 1) for part in parts]


@torch.no_grad()
@in_compute_dtype
def write_answers(
    model: PreTrainedModel,
    prefill: PassResult,
    state: Tensor,
    seeds: Tensor,
    number: Tensor,
    sampling: SamplingParams,
    eos_token_ids: Sequence[int],
) -> Generated:
    """Answers after the thoughts of N rows, one each.

    Args:
        state: (N, d) after each prompt's last token.
        seeds: (N,) the draws come from these.
        number: (N,) tells answers of equal seeds apart.
    """
    stop = torch.tensor(list(eos_token_ids), device=state.device)
    draws = None
    if sampling.temperature > 0:
        draws = token_draws(seeds.to(state.device), number.to(state.device), sampling.max_new_tokens)
    tokens, logprobs, values = _decode(model, prefill, state, draws, sampling, stop, eos_token_ids[0])
    is_stop = torch.isin(tokens, stop)
    lengths = torch.where(is_stop.any(1), is_stop.int().argmax(1) + 1, tokens.size(1)).tolist()
    token_ids = [row[:length] for row, length in zip(tokens.tolist(), lengths, strict=True)]
    drawn = Generated(token_ids, logprobs[:, : max(lengths)], prefill.latents, prefill.num_latents, seeds)
    return drawn if values is None else replace(drawn, token_values=values[:, : max(lengths)])


def _decode(
    model: PreTrainedModel,
    prefill: PassResult,
    state: Tensor,
    draws: Tensor | None,
    sampling: SamplingParams,
    stop: Tensor,
    pad_id: int,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Draws answers token by token.

    Finished answers leave the batch once they are half of it, so that a few long answers do not run many short ones
    along. What is returned may be wider than the longest answer.

    Args:
        draws: (N, A) uniform numbers that the tokens are drawn by; None: the most likely ones are taken.

    Returns:
        tokens: (N, A) padded after the end.
        logprobs: (N, A) of the tokens.
        values: (N, A) of the states before the tokens, where they are asked for.
    """
    count, longest = len(state), sampling.max_new_tokens
    warpers, decoder = sampling.warpers(), prefill.decoder
    tokens = torch.full((count, longest), pad_id, device=stop.device)
    logprobs = precise(state).new_zeros(count, longest)
    values = torch.zeros_like(logprobs) if sampling.values else None
    row = torch.arange(count, device=stop.device)  # (n,) rows of the answers still in the batch
    position, done = prefill.next_position, torch.zeros_like(row, dtype=torch.bool)
    every = LOOKS.get(stop.device.type, LOOKS_ELSEWHERE)
    for step in range(longest):
        logits = suppress(precise(model.head_logits(state)), model.latent_config.token_ids)  # (n, V)
        token = _draw(logits, warpers, draws[row, step, None] if draws is not None else None)
        logprob = (logits / (sampling.temperature or 1.0)).log_softmax(-1).gather(1, token[:, None]).squeeze(1)
        tokens[row, step] = torch.where(done, pad_id, token)
        logprobs[row, step] = logprob.masked_fill(done, 0.0)
        if values is not None:
            values[row, step] = model.value_head(state).masked_fill(done, 0.0).to(values)
        done = done | torch.isin(token, stop)
        if step == longest - 1:
            break
        if (step + 1) % every == 0:
            alive = int((~done).sum())
            if alive == 0:
                break
            if 2 * alive <= len(row):
                keep = (~done).nonzero().squeeze(1)
                decoder.select(keep)
                row, token, position, done = row[keep], token[keep], position[keep], done[keep]
        embeds = model.get_input_embeddings()(token[:, None])
        state = decoder(embeds, torch.ones_like(token[:, None], dtype=torch.bool), position[:, None])[:, -1]
        position = position + 1
    return tokens[:, : step + 1], logprobs[:, : step + 1], None if values is None else values[:, : step + 1]


def _draw(logits: Tensor, warpers: LogitsProcessorList, uniform: Tensor | None) -> Tensor:
    """One token a row (n,) from logits (n, V): by the inverse CDF at uniform (n, 1), or the most likely one."""
    if uniform is None:
        return logits.argmax(-1)
    cdf = warpers(None, logits).softmax(-1).cumsum(-1)
    return (cdf <= uniform * cdf[:, -1:]).sum(-1).clamp_max(logits.size(-1) - 1)


def token_draws(seeds: Tensor, number: Tensor, count: int) -> Tensor:
    """Uniform numbers (N, count) that tokens are drawn by; those of row n come from seeds[n] and number[n] alone."""
    return uniform(seeds, Stream.TOKEN, number, 0, count)
