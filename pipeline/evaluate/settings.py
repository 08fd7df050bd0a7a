"""The settings under which an evaluation measures a checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from ...data.problem import Problem
from ..latent.config import LatentConfig, ModelError
from ..latent.noise import check_fits, parse_noise
from ..model.reasoner import Reasoner
from ..recipe.schema import EvaluateSection, SearchSection
from ..scoring.sampling_setting import Search, Setting
from .audit.interventions import answer
from .audit.readings import sensitivity
from .search import check_search

logger = logging.getLogger(__name__)

# Problems that are used to find the latent on which answers depend most.
SENSITIVE_PROBLEMS = 128


def settings_of(
    reasoner: Reasoner, options: EvaluateSection, problems: Sequence[Problem], mode: str, judged: bool
) -> list[Setting]:
    """Greedy answers first, then each way to sample and to search that fits the checkpoint.

    Three kinds are left out: noise and searches for a checkpoint without latents, a tree that branches at a latent
    that the checkpoint does not make, and a beam without a latent reward model.

    Args:
        mode: The checkpoint's, see `Measurement`.
        judged: Whether a latent reward model is at hand.

    Raises:
        NoiseError: Noise that the checkpoint's thought source has no part for.
        SearchError: A search that does not fit the checkpoint.
    """
    is_latent = mode == "latent"
    greedy = _changed(reasoner.config, options) if is_latent else Setting()
    found = [greedy]
    for way in options.sampling:
        if way.noise is None or (is_latent and options.num_latents != 0):
            check_fits("evaluate.sampling", parse_noise(way.noise), reasoner.config.thought_source)
            drawn = replace(greedy, n=options.num_samples, noise=way.noise, temperature=way.temperature)
            found.append(replace(drawn, answers_per_thought=way.answers_per_thought))

    @cache
    def sensitive() -> int:
        return most_sensitive(reasoner, options, problems)

    for section in options.search if is_latent else []:
        if section.kind == "beam" and not judged:
            continue
        check_search(section.noise, reasoner.config, reasoner.model if judged else None)
        at = sensitive() if section.at == "sensitive" else section.at
        if isinstance(at, int) and at > reasoner.config.num_latents:
            made = reasoner.config.num_latents
            logger.warning("evaluate.search: a tree at latent %d is left out: the checkpoint makes %d.", at, made)
            continue
        search = _search(section, at, reasoner.config.num_latents)
        found.append(Setting(search.thoughts, section.noise, section.temperature, search=search))
    return list(dict.fromkeys(found))


def _changed(section: LatentConfig, options: EvaluateSection) -> Setting:
    """Greedy answers with the latents and loops that the evaluation asks for, or from what is read of them.

    Raises:
        ModelError: It asks for loops of latents that have none, or for wider blocks than were trained.
    """
    if options.loops is not None and section.loops is None:
        raise ModelError(
            f"evaluate.loops={options.loops} needs looped latents, but the checkpoint makes its latents in mode "
            f"{section.mode}. Remove it."
        )
    count, width = options.num_latents, options.latents_per_step
    if width is not None:
        if width > section.latents_per_step:
            raise ModelError(
                f"evaluate.latents_per_step={width} is more than the {section.latents_per_step} latents that a step "
                "had in training. Lower it."
            )
        count = section.num_latents // section.latents_per_step * width
    return Setting(num_latents=count, loops=options.loops, thought="as_text" if options.thought == "as_text" else None)


def _search(section: SearchSection, at: int | str | None, num_latents: int) -> Search:
    if section.kind == "beam":
        assert section.width is not None
        return Search.beam(section.width, section.children, num_latents)
    return Search.tree(section.children, at if isinstance(at, int) else None, num_latents)


def most_sensitive(reasoner: Reasoner, options: EvaluateSection, problems: Sequence[Problem]) -> int:
    """The latent, from 1, that a small change of moves the model's own answers most (`thoughts.sensitivity`)."""
    norms = sensitivity(reasoner, answer(reasoner, problems[:SENSITIVE_PROBLEMS], options))
    return int(norms.argmax()) + 1
