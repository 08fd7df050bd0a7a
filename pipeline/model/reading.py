"""What can be read in a thought: the tokens that the model's own head finds in the state before each latent.

After the supervision `step_tokens` these states are trained to say the tokens of the steps. Without it the reading is a
logit lens: what the head happens to find.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..latent.batch import Batch, Draw
from ..latent.config import ModelError
from ..latent.engine.packed import Keep
from ..latent.engine.precision import computing, precise
from ..latent.sampling.generate import pad_left
from ..latent.supervision import IGNORE
from ..latent.thoughts import THOUGHT_SOURCES, suppress
from .reasoner import Reasoner


@dataclass(frozen=True)
class Readout:
    """What is read in the thoughts of P prompts, on the CPU. Entries beyond a row's latents are 0.

    Attributes:
        tokens: (R, P, L, k) the most likely tokens at each latent, most likely first, in each of R passes; the last
            pass is the one that the answer sees. R is 1 where earlier passes were not asked for.
        probabilities: (R, P, L, k) theirs.
        logprobs: (P, L) in nats of the labels in the last pass, 0 where there is none.
        counts: (P,) latents of each prompt.
    """

    tokens: Tensor
    probabilities: Tensor
    logprobs: Tensor
    counts: Tensor


def read_latents(
    reasoner: Reasoner,
    prompts: Sequence[Sequence[int]],
    draw: Draw | None = None,
    top: int = 1,
    passes: bool = False,
    labels: Tensor | None = None,
    batch_size: int = 64,
) -> Readout:
    """Reads the latents of prompts. The three tokens that stand for latents are never read.

    Args:
        prompts: P prompts as token ids, with their placeholders.
        draw: Noise on the latents, with a seed for each prompt.
        top: Tokens k at each latent, fewer where the vocabulary is smaller.
        passes: Read every pass, where all latents are made at once.
        labels: (P, L) tokens whose log-probs are asked for, -100 for none.
        batch_size: Prompts in a forward.

    Raises:
        ModelError: The model has no latents that could be read.
    """
    section = reasoner.config
    if not THOUGHT_SOURCES[section.thought_source].is_recurrent:
        raise ModelError(
            f"Nothing can be read in the thoughts of this model: its thought source is {section.thought_source!r}, "
            "whose placeholders are ordinary tokens. Name a checkpoint with latents."
        )
    most = max((list(prompt).count(section.token_ids[1]) for prompt in prompts), default=0)
    if most == 0:
        raise ModelError("Nothing can be read: the model thinks in text. Name a checkpoint with latents.")
    found = []
    for begin in range(0, len(prompts), batch_size):
        part = slice(begin, begin + batch_size)
        noise = Draw(draw.noise, draw.seeds[part]) if draw is not None and draw.seeds is not None else draw
        asked = labels[part] if labels is not None else torch.full((len(prompts[part]), most), IGNORE)
        found.append(_read(reasoner, prompts[part], noise, top, passes, asked))
    return Readout(
        torch.cat([one.tokens for one in found], 1),
        torch.cat([one.probabilities for one in found], 1),
        torch.cat([one.logprobs for one in found]),
        torch.cat([one.counts for one in found]),
    )


@torch.no_grad()
def _read(
    reasoner: Reasoner, prompts: Sequence[Sequence[int]], draw: Draw | None, top: int, passes: bool, labels: Tensor
) -> Readout:
    """One batch of `read_latents`, with labels (P, L) for as many latents as the longest thought of all has."""
    model = reasoner.model
    ids, mask = pad_left(prompts, reasoner.eos_token_ids[0], model.device)
    batch = Batch.of(ids, mask, reasoner.config.token_ids[1])
    row, column = batch.is_latent.nonzero(as_tuple=True)  # (n,) the latents of all rows
    turn = (batch.is_latent.cumsum(1) - 1)[row, column]
    with computing(model):
        result, layout = model.run_latents(batch, labels.size(1), draw, keep=Keep(rounds=passes))
        last = result.hidden[row, layout.packed_column[row, column - 1]]
        shares = [_shares(reasoner, states) for states in (*(of[row, turn] for of in result.rounds), last)]
    best = torch.stack([share.topk(min(top, share.size(-1)), dim=-1).indices for share in shares])  # (R, n, k)
    chances = torch.stack([share.gather(1, tokens) for share, tokens in zip(shares, best, strict=True)])
    row, turn = row.cpu(), turn.cpu()
    shape = (len(best), *labels.shape, best.size(2))
    tokens, probabilities, logprobs = (
        torch.zeros(shape, dtype=torch.long),
        torch.zeros(shape),
        torch.zeros(labels.shape),
    )
    tokens[:, row, turn], probabilities[:, row, turn] = best.cpu(), chances.float().cpu()
    asked = labels[row, turn]
    said = shares[-1].cpu().float().log()[torch.arange(len(asked)), asked.clamp_min(0)]
    logprobs[row, turn] = torch.where(asked == IGNORE, 0.0, said)
    return Readout(tokens, probabilities, logprobs, batch.is_latent.sum(1).cpu())


def _shares(reasoner: Reasoner, states: Tensor) -> Tensor:
    """Probabilities (n, V) of the tokens that the head reads in states (n, d)."""
    logits = precise(reasoner.model.head_logits(states))
    return suppress(logits, reasoner.config.token_ids).softmax(-1)


@torch.no_grad()
def text_as_latents(reasoner: Reasoner, tokens: Tensor) -> Tensor:
    """What is read in latents, as inputs in their place: the embeddings (P, L, d) of tokens (P, L), on the CPU."""
    embedding = reasoner.model.get_input_embeddings()
    return embedding(tokens.to(reasoner.model.device)).float().cpu()


def blocks_of(values: Sequence[int], latents_per_step: int) -> list[list[int]]:
    """The latents of a thought, block by block; the last block may be shorter."""
    return [list(values[begin : begin + latents_per_step]) for begin in range(0, len(values), latents_per_step)]


def said_blocks(reasoner: Reasoner, tokens: Sequence[int], latents_per_step: int) -> list[list[int]]:
    """The tokens read in each block of a thought, up to the first end of sequence."""
    said = []
    for block in blocks_of(tokens, latents_per_step):
        ends = [place for place, token in enumerate(block) if token in reasoner.eos_token_ids]
        said.append(block[: ends[0]] if ends else block)
    return said


def block_texts(reasoner: Reasoner, tokens: Sequence[int]) -> list[str]:
    """The text of each block of a thought, from the tokens read in its latents, up to the first end of sequence."""
    said = said_blocks(reasoner, tokens, reasoner.config.latents_per_step)
    return [reasoner.tokenizer.decode(block).strip() for block in said]


def thought_texts(reasoner: Reasoner, prompts: Sequence[Sequence[int]], draw: Draw | None = None) -> list[str]:
    """The text that the model's head reads in each thought, blocks parted by ` | `; empty where nothing can be read.

    Args:
        prompts, draw: As in `read_latents`.
    """
    section = reasoner.config
    counts = [list(prompt).count(section.token_ids[1]) for prompt in prompts]
    if not any(counts) or not THOUGHT_SOURCES[section.thought_source].is_recurrent:
        return [""] * len(prompts)
    with reasoner.inference(None):  # as the thoughts were made: without dropout, and without its random numbers
        read = read_latents(reasoner, prompts, draw, batch_size=16).tokens[-1, :, :, 0].tolist()
    return [" | ".join(block_texts(reasoner, row[:n])) for row, n in zip(read, counts, strict=True)]
