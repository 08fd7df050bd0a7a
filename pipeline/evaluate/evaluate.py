"""Measures a checkpoint: greedy accuracy, pass@k and maj@k, as rows of results.json."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...data.problem import Problem
from ...rewards.answers import normalise_answer
from ..files import write_whole
from ..reasoner import Reasoner
from ..sections import EvaluateSection
from ..train.reward_model import recipe_reward
from .latent_reward import judge_thoughts, load_latent_reward
from .metrics import bootstrap_ci, pass_at_k
from .sample_files import SampleFile, digest
from .samples import Sampled, Setting, draw_samples
from .selection import METRICS, select, selection_rewards
from .statistics import guess_floor


@dataclass(frozen=True)
class Measurement:
    """One row of results.json.

    Attributes:
        stage: Training stage of the checkpoint: sft, curriculum, rl, or a control.
        mode: text, latent, pause, no_cot, or hybrid (latents, then steps in text: a curriculum that was stopped).
        metric: accuracy (greedy), pass@k, or that of a selector (`METRICS` in selection.py).
        ci95: Bootstrap interval over problems.
        n: Problems measured.
        guess: Of accuracy and pass@k, what as many guesses reach (`guess_floor`).
    """

    stage: str
    mode: str
    metric: str
    k: int
    noise: str | None
    temperature: float
    value: float
    ci95: tuple[float, float]
    n: int
    seed: int
    guess: float | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Measurement:
        """A row of results.json as read from JSON."""
        return cls(**{**values, "ci95": tuple(values["ci95"])})


def mode_of(reasoner: Reasoner, stage: str) -> str:
    """What a checkpoint does between question and answer, from its latent section."""
    section = reasoner.config
    if section.num_latents:
        return "pause" if section.thought_source in ("pause", "pause_multi") else "latent"
    return "no_cot" if stage == "no_cot" else "text"


def measure(
    reasoner: Reasoner,
    problems: Sequence[Problem],
    settings: EvaluateSection,
    stage: str,
    seed: int,
    folder: Path | None = None,
    source: Mapping[str, Any] | None = None,
) -> list[Measurement]:
    """Measures greedy answers and, for each sampling setting, pass@k and what selectors choose.

    Args:
        folder: Where to keep the samples, a file for each setting; None: nowhere.
        source: Of the samples: what tells this checkpoint from others.

    Raises:
        RewardError: A scorer or a reward to choose by that cannot be used.
    """
    mode = mode_of(reasoner, stage)
    ways = [Setting()] + [
        Setting(settings.num_samples, sampling.noise, sampling.temperature)
        for sampling in settings.sampling
        if sampling.noise is None or mode == "latent"  # else there is no latent for the noise to fall on
    ]
    reward = recipe_reward(settings.selection_reward) if settings.selection_reward is not None else None
    judge = None
    if settings.latent_reward is not None and mode == "latent":
        judge = partial(judge_thoughts, load_latent_reward(settings.latent_reward, reasoner))
        source = {**(source or {}), "latent_reward": digest(Path(settings.latent_reward))}
    what = {**(source or {}), "scorer": settings.scorer, "max_new_tokens": settings.max_new_tokens}
    answers = [normalise_answer(problem.answer) for problem in problems]
    rows = []
    for way in ways:
        file = None if folder is None else SampleFile(folder / f"{way.name}.jsonl", {**what, "setting": asdict(way)})
        sampled = draw_samples(reasoner, problems, way, settings, seed, file, judge)
        rewards = selection_rewards(reward, problems, sampled) if reward is not None and way != Setting() else None
        for metric, k, value, ci95 in _summaries(sampled, rewards, way, settings, seed):
            guess = guess_floor(answers, k) if metric in ("accuracy", "pass@k") else None
            rows.append(
                Measurement(stage, mode, metric, k, way.noise, way.temperature, value, ci95, len(problems), seed, guess)
            )
    return rows


def _summaries(
    sampled: Sequence[Sampled], rewards: np.ndarray | None, way: Setting, settings: EvaluateSection, seed: int
) -> Iterator[tuple[str, int, float, tuple[float, float]]]:
    """Metric, k, value and interval of what one setting gave."""
    right = np.array([row.right for row in sampled])
    found: list[tuple[str, int, np.ndarray]] = []
    if way == Setting():
        found.append(("accuracy", 1, pass_at_k(right, 1)))
    else:
        found += [("pass@k", k, pass_at_k(right, k)) for k in settings.k]
        # Of one sample nothing can be chosen, and a majority of two is one of them.
        names = [name for name in settings.selectors if name != "latent_reward" or sampled[0].latent_rewards]
        chosen = [(name, k) for name in names for k in settings.k if k >= (3 if name == "majority" else 2)]
        found += [(METRICS[name], k, select(name, sampled, rewards, k)) for name, k in chosen]
    for metric, k, values in found:
        yield metric, k, float(values.mean()), bootstrap_ci(values, settings.bootstrap, seed)


def write_results(path: Path, rows: Sequence[Measurement]) -> None:
    """Writes results.json, whole or not at all."""
    write_whole(path, json.dumps([asdict(row) for row in rows], indent=1) + "\n")


def read_results(path: Path) -> list[Measurement]:
    return [Measurement.from_dict(values) for values in json.loads(path.read_text(encoding="utf-8"))]
