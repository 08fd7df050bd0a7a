"""The settings that an evaluation measures a checkpoint under."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...data.problem import Problem
from ..evaluate_sections import EvaluateSection, SearchSection
from ..latent.noise import parse_noise
from ..reasoner import Reasoner
from .interventions import answer
from .samples import Setting
from .search import Search, SearchError, check_search
from .thoughts import sensitivity

# Problems that say where answers hang on the thought most.
SENSITIVE_PROBLEMS = 128


def settings_of(reasoner: Reasoner, options: EvaluateSection, problems: Sequence[Problem], mode: str) -> list[Setting]:
    """Greedy answers first, then every way to sample and to search that fits the checkpoint.

    Noise and searches are left out where it makes no latents.

    Args:
        mode: Of the checkpoint, see `Measurement`.

    Raises:
        SearchError: A search that does not fit the checkpoint's latents.
    """
    is_latent = mode == "latent"
    greedy = Setting(num_latents=options.num_latents if is_latent else None)
    noisy = is_latent and options.num_latents != 0
    found = [greedy]
    for way in options.sampling:
        if way.noise is None or noisy:
            shared = way.answers_per_thought
            found.append(replace(greedy, n=options.num_samples, noise=way.noise, temperature=way.temperature,
                                 answers_per_thought=shared))  # fmt: skip
    if is_latent:
        for section in options.search:
            search = _search(reasoner, section, options, problems)
            found.append(Setting(search.thoughts, section.noise, section.temperature, search=search))
    return found


def _search(
    reasoner: Reasoner, section: SearchSection, options: EvaluateSection, problems: Sequence[Problem]
) -> Search:
    noise = parse_noise(section.noise)
    if noise is None:
        raise SearchError("evaluate.search: noise of scale 0 makes all thoughts equal.")
    check_search(reasoner, noise)
    count = reasoner.config.num_latents
    if section.kind == "beam":
        assert section.width is not None
        return Search.beam(section.width, section.children, count)
    if section.at == "each":
        return Search.tree(section.children, None, count)
    at = most_sensitive(reasoner, options, problems) if section.at == "sensitive" else section.at
    return Search.tree(section.children, at, count)


def most_sensitive(reasoner: Reasoner, options: EvaluateSection, problems: Sequence[Problem]) -> int:
    """The latent, from 1, that a small change of moves the model's own answers most (`thoughts.sensitivity`)."""
    norms = sensitivity(reasoner, answer(reasoner, problems[:SENSITIVE_PROBLEMS], options))
    assert norms is not None
    return int(norms.argmax()) + 1
