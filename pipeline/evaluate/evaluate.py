"""Measures a checkpoint: greedy accuracy, pass@k and maj@k, as rows of results.json."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...data.problem import Problem
from ..files import write_whole
from ..reasoner import Reasoner
from ..sections import EvaluateSection
from .metrics import bootstrap_ci, maj_at_k, pass_at_k
from .sample_files import SampleFile
from .samples import Sampled, Setting, draw_samples


@dataclass(frozen=True)
class Measurement:
    """One row of results.json.

    Attributes:
        stage: Training stage of the checkpoint: sft, curriculum, rl, or a control.
        mode: text, latent, pause, no_cot, or hybrid (latents, then steps in text: a curriculum that was stopped).
        metric: accuracy (greedy), pass@k or maj@k.
        ci95: Bootstrap interval over problems.
        n: Problems measured.
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
    """Measures greedy answers and, for each sampling setting, pass@k and maj@k.

    Args:
        folder: Where to keep the samples, a file for each setting; None: nowhere.
        source: Of the samples: what tells this checkpoint from others.
    """
    mode = mode_of(reasoner, stage)
    ways = [Setting()] + [
        Setting(settings.num_samples, sampling.noise, sampling.temperature)
        for sampling in settings.sampling
        if sampling.noise is None or mode == "latent"  # else there is no latent for the noise to fall on
    ]
    what = {**(source or {}), "scorer": settings.scorer, "max_new_tokens": settings.max_new_tokens}
    rows = []
    for way in ways:
        file = None if folder is None else SampleFile(folder / f"{way.name}.jsonl", {**what, "setting": asdict(way)})
        sampled = draw_samples(reasoner, problems, way, settings, seed, file)
        for metric, k, value, ci95 in _summaries(sampled, way, settings, seed):
            rows.append(
                Measurement(stage, mode, metric, k, way.noise, way.temperature, value, ci95, len(problems), seed)
            )
    return rows


def _summaries(
    sampled: Sequence[Sampled], way: Setting, settings: EvaluateSection, seed: int
) -> Iterator[tuple[str, int, float, tuple[float, float]]]:
    """Metric, k, value and interval of what one setting gave."""
    right = np.array([row.right for row in sampled])
    wanted = [("accuracy", 1)] if way == Setting() else [("pass@k", k) for k in settings.k]
    # A majority of one or two is a single sample.
    wanted += [("maj@k", k) for k in settings.k if k >= 3 and way != Setting()]
    answers = [row.answers for row in sampled]
    for metric, k in wanted:
        values = maj_at_k(answers, right, k) if metric == "maj@k" else pass_at_k(right, k)
        yield metric, k, float(values.mean()), bootstrap_ci(values, settings.bootstrap, seed)


def write_results(path: Path, rows: Sequence[Measurement]) -> None:
    """Writes results.json, whole or not at all."""
    write_whole(path, json.dumps([asdict(row) for row in rows], indent=1) + "\n")


def read_results(path: Path) -> list[Measurement]:
    return [Measurement.from_dict(values) for values in json.loads(path.read_text(encoding="utf-8"))]
