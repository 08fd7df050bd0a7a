"""A thought in words, block by block and pass by pass, with the answer after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ..latent.batch import Draw
from ..latent.noise import Noise, parse_noise
from ..latent.supervision import StepDecoder
from .reading import Readout, block_texts, blocks_of, read_latents
from .reasoner import Reasoner, Samples


@dataclass(frozen=True)
class BlockReading:
    """What is read in one block of a thought in one pass.

    Attributes:
        loop: The pass, from 0; the last is the one that the answer sees. None: latents are made one after the other.
        text: Up to the first end of sequence.
        tokens: Of each latent, the most likely one.
        probabilities: Theirs.
    """

    loop: int | None
    text: str
    tokens: list[str]
    probabilities: list[float]


@dataclass(frozen=True)
class ThoughtInWords:
    """A question, its thought in words, and the answer.

    Attributes:
        read_by: `step_tokens`: the head, in latents that were labelled with these tokens; `lens`: the head, in latents
            that never were; `decoder`: the auxiliary decoder too, see `decoded`.
        logprob: Of the answer, in nats.
        blocks: For each block of latents its passes.
        decoded: What the auxiliary decoder reads in each block; None without one.
    """

    question: str
    read_by: str
    answer: str
    logprob: float
    blocks: list[list[BlockReading]]
    decoded: list[str] | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def think(
    reasoner: Reasoner,
    questions: Sequence[str],
    noise: str | None = None,
    seed: int = 0,
    max_new_tokens: int | None = None,
) -> list[ThoughtInWords]:
    """Thinks about questions, reads the thoughts, and answers greedily.

    Raises:
        ModelError: The model has no latents that could be read, or a question cannot be asked.
    """
    drawn, kind = (
        reasoner.generate(questions, noise=noise, seed=seed, max_new_tokens=max_new_tokens),
        parse_noise(noise),
    )
    return [_in_words(reasoner, question, samples, kind) for question, samples in zip(questions, drawn, strict=True)]


def _in_words(reasoner: Reasoner, question: str, samples: Samples, noise: Noise | None) -> ThoughtInWords:
    section, count = reasoner.config, samples.num_latents[0]
    draw = Draw(noise, torch.tensor(samples.seeds)) if noise is not None else None
    readout = read_latents(reasoner, [reasoner.prompt_ids(question, count)], draw, passes=True)
    passes = [_of_pass(reasoner, readout, index, section.mode != "sequential") for index in range(len(readout.tokens))]
    decoder, decoded = reasoner.model.supervision, None
    if isinstance(decoder, StepDecoder):
        latents = samples.latents[0, :count].to(reasoner.model.device, reasoner.model.dtype)
        decoded = reasoner.read_thoughts(latents)
    read_by = "step_tokens" if section.supervision == "step_tokens" else "lens"
    return ThoughtInWords(
        question,
        read_by if decoded is None else "decoder",
        samples.texts[0].strip(),
        samples.logprobs[0],
        [list(block) for block in zip(*passes, strict=True)],
        decoded,
    )


def _of_pass(reasoner: Reasoner, readout: Readout, index: int, is_numbered: bool) -> list[BlockReading]:
    """The blocks of a thought in one pass."""
    tokens, sure = readout.tokens[index, 0, :, 0].tolist(), readout.probabilities[index, 0, :, 0].tolist()
    c = reasoner.config.latents_per_step
    return [
        BlockReading(
            index if is_numbered else None,
            text,
            [reasoner.tokenizer.decode([token]) for token in block],
            [round(value, 4) for value in shares],
        )
        for text, block, shares in zip(
            block_texts(reasoner, tokens), blocks_of(tokens, c), blocks_of(sure, c), strict=True
        )
    ]
