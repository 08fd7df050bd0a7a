"""How far thoughts can be read while RL runs, on held-out problems, for models whose latents were labelled."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ....data.problem import Problem
from ...latent.supervision import IGNORE
from ...model.reading import Readout, read_latents, said_blocks, text_as_latents
from ...model.reasoner import Reasoner
from ...problems.encode import encode
from ...problems.format import Format
from ...scoring.monitor import chain_logprobs

READ = "read_"  # with a place of the thought, from 1: whether its latent says the token that it stands for


def is_legible(reasoner: Reasoner) -> bool:
    """Whether the latents of a model were trained to say tokens."""
    return reasoner.config.supervision == "step_tokens" and reasoner.config.num_latents > 0


def read_thoughts(
    reasoner: Reasoner,
    problems: Sequence[Problem],
    writer: Reasoner | None = None,
    num_latents: Sequence[int] | None = None,
) -> tuple[Tensor, dict[str, list[float]]]:
    """Reads the thoughts that a model has without noise.

    Args:
        writer: A model trained on text steps, to judge what is read by.
        num_latents: Latents of each thought, where a stop head ends them; None: as many as the model was trained for.

    Returns:
        What is read as inputs in place of the latents (P, L, d), zero beyond a thought's end, and for each problem

        - `legibility`: mean probability of the tokens that are read,
        - `gold_logprob`: mean log-prob in nats of the tokens of its steps, of problems that have steps,
        - `text_logprob`: mean log-prob in nats under `writer` of the tokens that are read, where any is,
        - `read_t`: at the t-th latent, 1 where the head reads the token that it stands for, else 0, of problems where
          it stands for one.
    """
    if not problems:  # as on a process that has none left
        reads = [f"{READ}{place}" for place in range(1, reasoner.config.num_latents + 1)]
        names = ("legibility", "gold_logprob", *(["text_logprob"] if writer else []), *reads)
        return torch.empty(0, 0, 0), {name: [] for name in names}
    lengths = [reasoner.config.num_latents] * len(problems) if num_latents is None else num_latents
    prompts = [reasoner.prompt_ids(problem.question, n) for problem, n in zip(problems, lengths, strict=True)]
    labels = _labels(reasoner, problems)
    is_made = torch.arange(labels.size(1))[None] < torch.tensor(lengths)[:, None]  # (P, L)
    labels = labels.masked_fill(~is_made, IGNORE)
    readout = read_latents(reasoner, prompts, labels=labels)
    sure = readout.probabilities[-1, :, :, 0].sum(1) / readout.counts
    tokens = readout.tokens[-1, :, :, 0]
    found = {"legibility": sure.tolist(), "gold_logprob": _means(readout, labels)}
    if writer is not None:
        width = reasoner.config.latents_per_step
        thoughts = [row[:n] for row, n in zip(tokens.tolist(), lengths, strict=True)]
        chains = [[token for block in said_blocks(reasoner, row, width) for token in block] for row in thoughts]
        found["text_logprob"] = [value for value in chain_logprobs(writer, problems, chains) if value is not None]
    for place, (read, meant) in enumerate(zip(tokens.T, labels.T, strict=True), start=1):
        found[f"{READ}{place}"] = (read == meant)[meant != IGNORE].float().tolist()
    return text_as_latents(reasoner, tokens) * is_made[..., None], found


def _labels(reasoner: Reasoner, problems: Sequence[Problem]) -> Tensor:
    """The token (P, L) that each latent should say, -100 for none."""
    style = Format(reasoner.config, eos_token_id=reasoner.tokenizer.eos_token_id)
    count = reasoner.config.num_latents
    return torch.tensor(
        [style.slot_labels(item, count) for item in encode(problems, reasoner.tokenizer, reasoner.config)]
    )


def _means(readout: Readout, labels: Tensor) -> list[float]:
    """Mean log-prob of the labels of each problem that has some."""
    count = (labels != IGNORE).sum(1)
    return (readout.logprobs.sum(1) / count.clamp_min(1))[count > 0].tolist()
