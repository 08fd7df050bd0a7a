"""Reads latents at each place of a thought: logit lens, auxiliary decoder, sensitivity, geometry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...latent.geometry import cosine_sums, effective_ranks
from ...latent.sampling.generate import pad_left
from ...latent.supervision import IGNORE, StepDecoder
from ...model.reading import read_latents
from ...model.reasoner import Reasoner
from ...problems.encode import encode
from ...problems.format import Format
from ...statistics.intervals import Mean
from .interventions import Answers

# Rows of a forward that keeps logits or gradients.
BATCH = 64
LENS_TOKENS = 3


@dataclass(frozen=True)
class Place:
    """Measurements of the latents at one place of the thought.

    Attributes:
        latent: The place, counted from 1.
        rms: Root mean square of their entries over that of the token embeddings.
        cosine: Mean cosine between the latents of two problems.
        effective_rank: exp(entropy of the normalised singular values), after centring. At most d, and at most the
            number of problems less one.
        sensitivity: ‖latent‖ · ‖d log p(answer) / d latent‖ in nats, averaged; see `sensitivity`.
        lens: Share of problems for which the head reads the token that the latent stands for, see `lens_and_steps`;
            None: the latent stands for none.
        common: Share of problems with the most common such token, the floor for `lens`.
    """

    latent: int
    rms: float
    cosine: float
    effective_rank: float
    sensitivity: float
    lens: Mean | None
    common: float | None


@dataclass(frozen=True)
class Reading:
    """The thought of one problem in words.

    Attributes:
        lens: The most likely tokens at each latent, most likely first.
        probabilities: Probability of the most likely token at each latent.
        hits: Whether it is the token that the latent stands for, see `lens_and_steps`; None: it stands for none.
        decoded: The steps that the auxiliary decoder reads; None: the checkpoint has no decoder.
    """

    question: str
    steps: tuple[str, ...]
    answer: str
    lens: list[list[str]]
    probabilities: list[float]
    hits: list[bool | None]
    decoded: list[str] | None


def measure_places(reasoner: Reasoner, own: Answers, tokens: Tensor, resamples: int) -> list[Place]:
    """Measures every place of the thought over the problems that have a latent there.

    Args:
        tokens: (P, L, k) as `lens` reads them.
    """
    config, latents = reasoner.config, own.latents
    found, sensitivities = [], sensitivity(reasoner, own)
    pairs_by_place = lens_and_steps(reasoner, own, tokens[..., 0])
    for place in range(int(own.counts.max())):
        here = latents[own.counts > place, place : place + 1]  # (n, 1, d)
        total, pairs = cosine_sums(here, torch.zeros(len(here), dtype=torch.long)).tolist()
        read = np.array(pairs_by_place[place])  # (n, 2)
        found.append(
            Place(
                place + 1,
                rms=here.pow(2).mean().sqrt().item() / config.embedding_rms,
                cosine=total / pairs if pairs else float("nan"),
                effective_rank=effective_ranks(here).item(),
                sensitivity=sensitivities[place].item(),
                lens=Mean.share(read[:, 0] == read[:, 1], resamples) if len(read) else None,
                common=float(np.unique(read[:, 1], return_counts=True)[1].max() / len(read)) if len(read) else None,
            )
        )
    return found


def lens(reasoner: Reasoner, own: Answers) -> tuple[Tensor, Tensor]:
    """The tokens that the model's head finds most likely in the state before each latent, see `read_latents`.

    Returns:
        (P, L, k) tokens and their probabilities. Entries beyond a row's latents mean nothing.
    """
    prompts = _prompt_ids(reasoner, own, range(len(own.problems)))
    readout = read_latents(reasoner, prompts, top=LENS_TOKENS, batch_size=BATCH)
    return readout.tokens[-1], readout.probabilities[-1]


def lens_and_steps(reasoner: Reasoner, own: Answers, tokens: Tensor) -> list[list[tuple[int, int]]]:
    """For each place, pairs of tokens: what is read there, one of (P, L), and the token that the latent stands for.

    That is the first token of its step, or its own token of the step where `step_tokens` gave each latent one. Problems
    without such a latent or token are left out.
    """
    rows = _beside_steps(reasoner, own, tokens)
    return [[pair for row in rows if (pair := row[place]) is not None] for place in range(own.latents.size(1))]


def _beside_steps(reasoner: Reasoner, own: Answers, tokens: Tensor) -> list[list[tuple[int, int] | None]]:
    """Pairs the token (P, L) read at each place with the one that the latent stands for, see `lens_and_steps`.

    None where there is no latent, or where the latent stands for no token.
    """
    read, style = tokens.tolist(), Format(reasoner.config, eos_token_id=reasoner.tokenizer.eos_token_id)
    return [
        [
            (read[row][place], token) if own.counts[row] > place and token != IGNORE else None
            for place, token in enumerate(style.stands_for(item, tokens.size(1)))
        ]
        for row, item in enumerate(encode(own.problems, reasoner.tokenizer, reasoner.config))
    ]


def sensitivity(reasoner: Reasoner, own: Answers) -> Float[Tensor, " L"]:
    """‖z_t‖ · ‖d log p(answer) / d z_t‖ in nats, averaged over the problems that have latent t.

    It estimates the change of log p when a latent changes by its own norm. The answer is the model's own: all tokens
    after the latents. The derivative also goes through later latents; where all latents are made at once, it is taken
    at those of the last round, which the answer sees.
    """
    model, section = reasoner.model, reasoner.config
    total = torch.zeros(own.latents.size(1))
    model.latent_config = replace(
        section, backprop_steps=None
    )  # the checkpoint may have been trained with a shortened derivative
    try:
        for rows in _batches(len(own.problems)):
            _add_sensitivities(reasoner, own, rows, total)
    finally:
        model.latent_watch, model.latent_config = None, section
    having = (own.counts[:, None] > torch.arange(len(total))).sum(0)
    return total / having.clamp_min(1)


def _add_sensitivities(reasoner: Reasoner, own: Answers, rows: range, total: Tensor) -> None:
    """Adds the sensitivities of some problems to the sums (L,) by place."""
    model = reasoner.model
    ids, mask = _prompts(reasoner, own, rows)
    written = torch.zeros_like(ids, dtype=torch.bool)
    for row, index in enumerate(rows):
        written[row, ids.size(1) - len(own.token_ids[index]) :] = True
    passes: list[tuple[Tensor, Tensor]] = []
    model.latent_watch = lambda latent, turn: passes.append((latent, turn))
    with torch.enable_grad():
        logits = model(input_ids=ids, attention_mask=mask, labels=torch.where(written, ids, IGNORE)).logits
        logprob = logits.float().log_softmax(-1).gather(1, ids[written][:, None]).sum()
    gradients = torch.autograd.grad(logprob, [latent for latent, _ in passes])
    for (latent, turn), gradient in zip(passes, gradients, strict=True):
        norms = (latent.detach().float().norm(dim=-1) * gradient.float().norm(dim=-1)).cpu()
        made = (turn >= 0).cpu()
        total.index_add_(0, turn.cpu()[made], norms[made])


def read(reasoner: Reasoner, own: Answers, tokens: Tensor, probabilities: Tensor, how_many: int) -> list[Reading]:
    """The thoughts of the first problems in words.

    Args:
        tokens: (P, L, k) as `lens` reads them.
        probabilities: (P, L, k) theirs.
    """
    beside = _beside_steps(reasoner, own, tokens[..., 0])[:how_many]
    hits = [[None if pair is None else pair[0] == pair[1] for pair in row] for row in beside]
    readings = []
    for row, found in enumerate(tokens[:how_many].tolist()):
        count, problem = int(own.counts[row]), own.problems[row]
        decoded = None
        if isinstance(reasoner.model.supervision, StepDecoder):
            latents = own.latents[row, :count].to(reasoner.model.device, reasoner.model.dtype)
            decoded = reasoner.read_thoughts(latents)
        words = [[reasoner.tokenizer.decode([token]).strip() for token in place] for place in found[:count]]
        sure = probabilities[row, :count, 0].tolist()
        text = own.texts[row].strip()
        readings.append(Reading(problem.question, problem.steps, text, words, sure, hits[row][:count], decoded))
    return readings


def decoder_accuracy(reasoner: Reasoner, own: Answers, resamples: int) -> Mean | None:
    """Share of steps that the auxiliary decoder reads word for word from their latents, averaged over problems.

    None without a decoder, or without a step.
    """
    if not isinstance(reasoner.model.supervision, StepDecoder):
        return None
    shares = []
    for row, problem in enumerate(own.problems):
        latents = own.latents[row, : int(own.counts[row])].to(reasoner.model.device, reasoner.model.dtype)
        pairs = list(zip(reasoner.read_thoughts(latents), problem.steps, strict=False))
        if pairs:
            shares.append(np.mean([text == step.strip() for text, step in pairs]))
    return Mean.share(np.array(shares), resamples) if shares else None


def _batches(count: int) -> Iterator[range]:
    return (range(begin, min(begin + BATCH, count)) for begin in range(0, count, BATCH))


def _prompt_ids(reasoner: Reasoner, own: Answers, rows: Sequence[int]) -> list[list[int]]:
    """Questions with as many placeholders as each had latents."""
    return [reasoner.prompt_ids(own.problems[row].question, int(own.counts[row])) for row in rows]


def _prompts(reasoner: Reasoner, own: Answers, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Questions with their placeholders and answers: ids and mask (B, T), padded on the left."""
    ids = [prompt + own.token_ids[row] for prompt, row in zip(_prompt_ids(reasoner, own, rows), rows, strict=True)]
    return pad_left(ids, reasoner.eos_token_ids[0], reasoner.model.device)
