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
from ...model.reasoner import Reasoner
from ...problems.encode import encode
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
        lens: Share of problems for which the logit lens reads the first token of the step that the latent stands for;
            None: the latent stands for no step.
        common: Share of problems whose step begins with the most common first token, the floor for `lens`.
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
        hits: Whether that token is the first of the step that the latent stands for; None: it stands for no step.
        decoded: The steps that the auxiliary decoder reads; None: the checkpoint has no decoder.
    """

    question: str
    steps: tuple[str, ...]
    answer: str
    lens: list[list[str]]
    probabilities: list[float]
    hits: list[bool | None]
    decoded: list[str] | None


def measure_places(reasoner: Reasoner, own: Answers, resamples: int) -> list[Place]:
    """Measures every place of the thought over the problems that have a latent there."""
    config, latents = reasoner.config, own.latents
    found, sensitivities = [], sensitivity(reasoner, own)
    pairs_by_place = lens_and_steps(reasoner, own)
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
    """Logit lens: the tokens that the model's head finds most likely in the state that each latent is made from.

    Returns:
        (P, L, k) tokens and their probabilities. Entries beyond a row's latents mean nothing.
    """
    model, most = reasoner.model, own.latents.size(1)
    found = torch.zeros(len(own.problems), most, LENS_TOKENS, dtype=torch.long)
    probabilities = torch.zeros(found.shape)
    for rows in _batches(len(own.problems)):
        ids, mask = _prompts(reasoner, own, rows)
        is_latent = ids == reasoner.config.token_ids[1]
        # A label on a placeholder asks for the logits of the state before it. No other logits are computed.
        labels = torch.where(is_latent, ids, IGNORE)
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=mask, labels=labels).logits  # (N, V)
        row, column = is_latent.nonzero(as_tuple=True)
        turn = (is_latent.cumsum(1) - 1)[row, column]
        top, tokens = logits.float().softmax(-1).topk(min(LENS_TOKENS, logits.size(-1)), dim=-1)
        found[row.cpu() + rows.start, turn.cpu(), : tokens.size(1)] = tokens.cpu()
        probabilities[row.cpu() + rows.start, turn.cpu(), : tokens.size(1)] = top.cpu()
    return found, probabilities


def lens_and_steps(reasoner: Reasoner, own: Answers) -> list[list[tuple[int, int]]]:
    """For each place, pairs of tokens: what the lens reads, and the first token of the step that the latent stands for.

    Problems without such a latent or step are left out.
    """
    rows = _beside_steps(reasoner, own, lens(reasoner, own)[0][..., 0])
    return [[pair for row in rows if (pair := row[place]) is not None] for place in range(own.latents.size(1))]


def _beside_steps(reasoner: Reasoner, own: Answers, tokens: Tensor) -> list[list[tuple[int, int] | None]]:
    """Pairs the token (P, L) read at each place with the first token of the step that the latent stands for.

    None where there is no latent, or where the latent stands for no step.
    """
    c, encoded, read = reasoner.config.latents_per_step, encode(own.problems, reasoner.tokenizer), tokens.tolist()
    return [
        [
            (read[row][place], item.steps[place // c][0])
            if place // c < len(item.steps) and own.counts[row] > place
            else None
            for place in range(tokens.size(1))
        ]
        for row, item in enumerate(encoded)
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
    ids, mask = _prompts(reasoner, own, rows, with_answers=True)
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


def read(reasoner: Reasoner, own: Answers, how_many: int) -> list[Reading]:
    """The thoughts of the first problems in words."""
    chosen = Answers(
        own.problems[:how_many],
        own.texts[:how_many],
        own.token_ids[:how_many],
        own.latents[:how_many],
        own.counts[:how_many],
        own.right[:how_many],
    )
    found, probabilities = lens(reasoner, chosen)
    beside = _beside_steps(reasoner, chosen, found[..., 0])
    hits = [[None if pair is None else pair[0] == pair[1] for pair in row] for row in beside]
    readings = []
    for row, tokens in enumerate(found.tolist()):
        count, problem = int(own.counts[row]), own.problems[row]
        decoded = None
        if isinstance(reasoner.model.supervision, StepDecoder):
            latents = own.latents[row, :count].to(reasoner.model.device, reasoner.model.dtype)
            decoded = reasoner.read_thoughts(latents)
        words = [[reasoner.tokenizer.decode([token]).strip() for token in place] for place in tokens[:count]]
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


def _prompts(
    reasoner: Reasoner, own: Answers, rows: Sequence[int], with_answers: bool = False
) -> tuple[Tensor, Tensor]:
    """Questions with as many placeholders as each had latents: ids and mask (B, T), padded on the left."""
    ids = [
        reasoner.prompt_ids(own.problems[row].question, int(own.counts[row]))
        + (own.token_ids[row] if with_answers else [])
        for row in rows
    ]
    return pad_left(ids, reasoner.eos_token_ids[0], reasoner.model.device)
