"""Answers from what is read of a thought alone: the readable bottleneck (`evaluate.thought: as_text`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..latent.batch import Draw
from ..latent.config import ModelError
from ..latent.latentize import latent_section
from ..latent.noise import Noise, Replacement, parse_noise
from ..latent.thoughts import THOUGHT_SOURCES
from ..problems.encode import encode_prompts
from .load import load_tokenizer
from .reading import read_latents, text_as_latents
from .reasoner import Reasoner, Samples


def answer_from_text(
    reasoner: Reasoner,
    questions: Sequence[str],
    seeds: Sequence[Sequence[int]],
    on_samples: Callable[[int, Samples], None],
    noise: Noise | str | None = None,
    num_latents: int | None = None,
    loops: int | None = None,
    batch_size: int = 256,
    **sampling: Any,
) -> None:
    """Thinks, reads the thought, and answers from the text: each latent becomes the embedding of its most likely token.

    Nothing else of the thought reaches the answer, which sees the question and this text. Noise falls on the thought
    that is read. With a stop head the thought ends where the head says so in the text.

    Args:
        seeds: (P, n), different from question to question.
        on_samples: Called with a question's place and its samples, whose latents are these embeddings.
        noise, num_latents, loops, batch_size, sampling: As in `Reasoner.generate`.

    Raises:
        ModelError: The model has no latents that could be read, or a question cannot be asked.
    """
    noise = parse_noise(noise) if isinstance(noise, str) else noise
    once = None if reasoner.config.loops is None else 1  # given latents are the same in every loop
    per_batch = max(1, batch_size // len(seeds[0])) if len(seeds) else 1
    for begin in range(0, len(questions), per_batch):
        asked, drawn = questions[begin : begin + per_batch], seeds[begin : begin + per_batch]
        text = _thoughts_as_text(reasoner, asked, drawn, noise, num_latents, loops, batch_size)
        samples = reasoner.generate(
            asked, noise=text, seeds=drawn, num_latents=num_latents, loops=once, batch_size=batch_size, **sampling
        )
        for place, row in enumerate(samples, begin):
            on_samples(place, row)


def _thoughts_as_text(
    reasoner: Reasoner,
    questions: Sequence[str],
    seeds: Sequence[Sequence[int]],
    noise: Noise | None,
    num_latents: int | None,
    loops: int | None,
    batch_size: int,
) -> Replacement:
    """What is read in the thoughts of questions, for the seeds of each to be given in their place."""
    count = reasoner.config.num_latents if num_latents is None else num_latents
    encoded = encode_prompts(questions, count, reasoner.tokenizer, reasoner.config)
    # Without noise the seeds of a question have one thought, under noise those that are equal.
    thoughts = [(row, seed) for row, of in enumerate(seeds) for seed in (dict.fromkeys(of) if noise else of[:1])]
    draw = Draw(noise, torch.tensor([seed for _, seed in thoughts])) if noise is not None else None
    if noise is not None:
        noise.prepare(reasoner.model)
    with reasoner.inference(loops):
        readout = read_latents(reasoner, [encoded[row] for row, _ in thoughts], draw, batch_size=batch_size)
    latents = text_as_latents(reasoner, readout.tokens[-1, :, :, 0])
    if noise is None:
        places = {seed: row for row, of in enumerate(seeds) for seed in of}
    else:
        places = {seed: place for place, (_, seed) in enumerate(thoughts)}
    return Replacement(latents=latents, places=places)


def check_some_can_be_read(checkpoints: Mapping[str, Path], trust_remote_code: bool = False) -> None:
    """Makes sure that `evaluate.thought=as_text` is not asked of models none of which has a thought to read.

    Args:
        checkpoints: Folders by stage.

    Raises:
        ModelError: All reason in text or have pause tokens.
    """
    said = []
    for stage, folder in checkpoints.items():
        section = latent_section(load_tokenizer(folder, trust_remote_code)[0])
        if section is not None and section.num_latents and can_be_read(section.thought_source):
            return
        is_text = section is None or not section.num_latents
        said.append(f"{stage} thinks in text" if is_text else f"{stage} has placeholders that hand nothing on")
    raise ModelError(
        f"evaluate.thought=as_text answers from the tokens that are read in latents, and there are none: "
        f"{', '.join(said)}. Remove it, or name a checkpoint with latents."
    )


def can_be_read(thought_source: str) -> bool:
    """Whether a thought source makes latents that something can be read of: those of pause controls are constants."""
    return THOUGHT_SOURCES[thought_source].is_recurrent and thought_source != "pause_multi"
