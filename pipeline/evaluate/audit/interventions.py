"""Interventions: other latents in place of a model's own, and what becomes of its answers.

An audit first lets the model answer on its own (`answer`). Then the model answers again with other latents
(`Replacement`), while the question and the weights stay the same. The accuracy that is lost came from the latents.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ....data.problem import Problem
from ....rewards.answers import extract_answer
from ....rewards.score import is_right
from ...latent.noise import Replacement
from ...model.reasoner import Reasoner
from ...problems.donors import derange
from ...recipe.schema import EvaluateSection
from ...statistics.intervals import Mean

AS_TEXT, TEXT_SWAP = "as text", "text of swap"


@dataclass
class Answers:
    """Greedy answers of a model to P problems, without noise.

    Attributes:
        problems: The P problems.
        texts: P completions.
        token_ids: P completions as ids.
        latents: (P, L, d) the vectors fed back, float32 on the CPU; zero beyond a row's count.
        counts: (P,) latents of each.
        right: (P,) whether the scorer takes the answer for right.
    """

    problems: Sequence[Problem]
    texts: list[str]
    token_ids: list[list[int]]
    latents: Tensor
    counts: Tensor
    right: np.ndarray


def answer(
    reasoner: Reasoner,
    problems: Sequence[Problem],
    settings: EvaluateSection,
    latents: Tensor | None = None,
    num_latents: int | None = None,
) -> Answers:
    """Answers problems with the model's own latents, or with given ones.

    Args:
        latents: (P, L, d) in place of its own.
        num_latents: Default: those of the checkpoint; 0: reason in text.
    """
    samples = reasoner.generate(
        [problem.question for problem in problems],
        noise=Replacement(latents=latents) if latents is not None else None,
        seeds=[[row] for row in range(len(problems))],
        num_latents=num_latents,
        max_new_tokens=settings.max_new_tokens,
        **settings.at_once,
    )
    texts = [sample.texts[0] for sample in samples]
    return Answers(
        problems,
        texts,
        [sample.token_ids[0] for sample in samples],
        torch.cat([sample.latents for sample in samples]).float().cpu(),
        torch.tensor([sample.num_latents[0] for sample in samples]),
        is_right(settings.scorer, problems, [[text] for text in texts], reasoner.config.answer_format)[:, 0],
    )


@dataclass(frozen=True)
class Intervention:
    """Latents to put in place of a model's own.

    Attributes:
        rows: (R,) indices of the problems that get other latents.
        latents: (R, L, d) the latents they get.
        donors: (R,) indices of the problems that the latents come from; None: from no other problem.
    """

    name: str
    rows: np.ndarray
    latents: Tensor
    donors: np.ndarray | None = None


def interventions(own: Answers, seed: int, text: Tensor, block: int = 1) -> Iterator[Intervention]:
    """Every intervention on a model's own latents.

    `put back` gives each problem its own latents: it shows that the method by itself changes nothing. `swap` needs two
    problems with different answers. `swap t alone`, `shuffle` and `keep t` need two latents; with blocks two of those.

    Args:
        text: (P, L, d) what is read in the latents, see `text_as_latents`.
        block: Latents that `swap t alone` and `keep t` take together.
    """
    latents, counts = own.latents, own.counts
    every, most = np.arange(len(latents)), int(counts.max())
    yield Intervention("put back", every, latents)
    rows, donors = derange([problem.answer for problem in own.problems], counts.tolist(), seed)
    if len(rows):
        yield Intervention("swap", rows, latents[donors], donors)
        for number, begin in enumerate(range(0, most if most > block else 0, block), 1):
            name = f"swap {number} alone" if block == 1 else f"swap block {number} alone"
            yield Intervention(name, rows, alone(latents[donors], slice(begin, begin + block)), donors)
        yield Intervention(TEXT_SWAP, rows, text[donors], donors)
    yield Intervention(AS_TEXT, every, text)
    yield Intervention("zero", every, torch.zeros_like(latents))
    mean = mean_of_places(latents, counts)
    yield Intervention("mean", every, mean)
    yield Intervention("noise", every, norm_matched_noise(latents, seed))
    several = (counts > 1).numpy().nonzero()[0]
    if len(several):
        yield Intervention("shuffle", several, shuffled(latents[several], counts[several], seed))
    for number, kept in enumerate(range(block, most, block), 1):
        name = f"keep {number}" if block == 1 else f"keep {number} block{'s' * (number > 1)}"
        yield Intervention(name, every, torch.cat([latents[:, :kept], mean[:, kept:]], 1))


def alone(latents: Tensor, places: slice) -> Tensor:
    """Latents (P, L, d) that are given at some places only. At the others they are NaN: the model makes its own."""
    result = torch.full_like(latents, torch.nan)
    result[:, places] = latents[:, places]
    return result


def mean_of_places(latents: Tensor, counts: Tensor) -> Tensor:
    """For each problem and place the mean latent of that place, over the problems that have one there: (P, L, d).

    Zero where a problem has no latent.
    """
    has_place = (torch.arange(latents.size(1)) < counts[:, None])[..., None]  # (P, L, 1)
    mean = latents.sum(0) / has_place.sum(0).clamp_min(1)
    return mean * has_place


def norm_matched_noise(latents: Tensor, seed: int) -> Tensor:
    """Random directions (P, L, d), each with the norm of the latent that it replaces."""
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(noise, dim=-1) * latents.norm(dim=-1, keepdim=True)


def shuffled(latents: Tensor, counts: Tensor, seed: int) -> Tensor:
    """The latents (P, L, d) of each problem in another order. All other orders are equally likely.

    Args:
        counts: (P,) at least 2 each.
    """
    generator = torch.Generator().manual_seed(seed)
    result = latents.clone()
    for row, count in enumerate(counts.tolist()):
        order = torch.arange(count)
        while torch.equal(order, torch.arange(count)):
            order = torch.randperm(count, generator=generator)
        result[row, :count] = latents[row, order]
    return result


@dataclass(frozen=True)
class Effect:
    """What an intervention does.

    Attributes:
        accuracy: Accuracy with the other latents.
        own: Accuracy on the same problems with the model's own latents.
        loss: Paired difference, `own` less `accuracy`.
        unchanged: Share of answers that stay the same, right or wrong.
        donor: Share of answers that are right for the donor; None: the latents have no donor.
    """

    name: str
    accuracy: Mean
    own: Mean
    loss: Mean
    unchanged: Mean
    donor: Mean | None


def measure_effect(
    reasoner: Reasoner, own: Answers, intervention: Intervention, settings: EvaluateSection, seed: int
) -> Effect:
    """Answers the problems of an intervention with its latents, and compares with the model's own answers."""
    rows = intervention.rows
    problems = [own.problems[row] for row in rows]
    under = answer(reasoner, problems, settings, intervention.latents)
    form = reasoner.config.answer_format
    before = [extract_answer(own.texts[row], form) for row in rows]
    same = [text == extract_answer(now, form) for text, now in zip(before, under.texts, strict=True)]
    donor = None
    if intervention.donors is not None:
        donors = [own.problems[row] for row in intervention.donors]
        follows = is_right(settings.scorer, donors, [[text] for text in under.texts], form)[:, 0]
        donor = _share(follows, settings, seed)
    right = own.right[rows]
    return Effect(
        intervention.name,
        accuracy=_share(under.right, settings, seed),
        own=_share(right, settings, seed),
        loss=Mean.difference(right.astype(float) - under.right, settings.bootstrap, seed),
        unchanged=_share(np.array(same), settings, seed),
        donor=donor,
    )


def _share(values: np.ndarray, settings: EvaluateSection, seed: int) -> Mean:
    return Mean.share(values, settings.bootstrap, seed)
