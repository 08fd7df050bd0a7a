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
from ..latent.thoughts import THOUGHT_SOURCES, suppress
from .reasoner import Reasoner


@dataclass(frozen=True)
class Readout:
    """What is read in the thoughts of P prompts, on the CPU. Entries beyond a row's latents mean nothing.

    Attributes:
        tokens: (R, P, L, k) the most likely tokens at each latent, most likely first, in each of R passes; the last
            pass is the one that the answer sees. R is 1 where earlier passes were not asked for.
        probabilities: (R, P, L, k) theirs.
    """

    tokens: Tensor
    probabilities: Tensor


@torch.no_grad()
def read_latents(
    reasoner: Reasoner, prompts: Sequence[Sequence[int]], draw: Draw | None = None, top: int = 1, passes: bool = False
) -> Readout:
    """Reads the latents of prompts. The three tokens that stand for latents are never read.

    Args:
        prompts: P prompts as token ids, with their placeholders.
        draw: Noise on the latents, with a seed for each prompt.
        top: Tokens k at each latent, fewer where the vocabulary is smaller.
        passes: Read every pass, where all latents are made at once.

    Raises:
        ModelError: The model has no latents that could be read.
    """
    model, section = reasoner.model, reasoner.config
    if not THOUGHT_SOURCES[section.thought_source].is_recurrent:
        raise ModelError(
            f"Nothing can be read in the thoughts of this model: its thought source is {section.thought_source!r}, "
            "whose placeholders are ordinary tokens. Name a checkpoint with latents."
        )
    ids, mask = pad_left(prompts, reasoner.eos_token_ids[0], model.device)
    batch = Batch.of(ids, mask, section.token_ids[1])
    most = int(batch.is_latent.sum(1).max())
    if most == 0:
        raise ModelError("Nothing can be read: the model thinks in text. Name a checkpoint with latents.")
    with computing(model):
        result, layout = model.run_latents(batch, most, draw, keep=Keep(rounds=passes))
        row, column = batch.is_latent.nonzero(as_tuple=True)
        turn = (batch.is_latent.cumsum(1) - 1)[row, column]
        last = result.hidden[row, layout.packed_column[row, column - 1]]  # (n, d)
        found = [_most_likely(reasoner, states[row, turn], top) for states in result.rounds]
        found.append(_most_likely(reasoner, last, top))
    shape = (len(found), len(ids), most, found[-1][0].size(1))
    tokens, probabilities = torch.zeros(shape, dtype=torch.long), torch.zeros(shape)
    for index, (best, share) in enumerate(found):
        tokens[index, row.cpu(), turn.cpu()], probabilities[index, row.cpu(), turn.cpu()] = best.cpu(), share.cpu()
    return Readout(tokens, probabilities)


def _most_likely(reasoner: Reasoner, states: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Tokens and probabilities (n, k) that the head reads in states (n, d)."""
    logits = suppress(precise(reasoner.model.head_logits(states)), reasoner.config.token_ids)
    share, tokens = logits.softmax(-1).topk(min(top, logits.size(-1)), dim=-1)
    return tokens, share.float()


@torch.no_grad()
def text_as_latents(reasoner: Reasoner, tokens: Tensor) -> Tensor:
    """What is read in latents, as inputs in their place: the embeddings (P, L, d) of tokens (P, L), on the CPU."""
    embedding = reasoner.model.get_input_embeddings()
    return embedding(tokens.to(reasoner.model.device)).float().cpu()


def blocks_of(values: Sequence[int], latents_per_step: int) -> list[list[int]]:
    """The latents of a thought, block by block; the last block may be shorter."""
    return [list(values[begin : begin + latents_per_step]) for begin in range(0, len(values), latents_per_step)]


def block_texts(reasoner: Reasoner, tokens: Sequence[int]) -> list[str]:
    """The text of each block of a thought, from the tokens read in its latents, up to the first end of sequence."""
    texts = []
    for block in blocks_of(tokens, reasoner.config.latents_per_step):
        ends = [place for place, token in enumerate(block) if token in reasoner.eos_token_ids]
        texts.append(reasoner.tokenizer.decode(block[: ends[0]] if ends else block).strip())
    return texts
