"""Measures a checkpoint: greedy accuracy, pass@k and what selectors reach, as rows of results.json."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState

from ...data.errors import UserError, reason
from ...data.problem import Problem
from ...rewards.answers import normalise_answer
from ...rewards.score import warn_of_unscored
from ..model.reasoner import Reasoner
from ..recipe.schema import EvaluateSection
from ..scoring.latent_reward import LatentRewardModel, load_latent_reward
from ..scoring.monitor import Monitor
from ..scoring.problem_samples import Sampled
from ..scoring.recipe_rewards import recipe_reward
from ..scoring.sample_files import SampleFile, digest
from ..scoring.sampling_setting import Setting
from ..scoring.selectors import AGREEMENT, METRICS, fewest, select, selection_rewards
from ..statistics.at_k import agreement, auroc, pass_at_k
from ..statistics.intervals import auroc_ci, share_ci
from ..statistics.paired import guess_floor
from ..system.files import write_whole
from .draw_samples import Effort, draw_samples
from .monitored import Monitored, judge_monitor
from .settings import settings_of

logger = logging.getLogger(__name__)


class ResultsError(UserError):
    """A file of results that cannot be read."""


@dataclass(frozen=True)
class Measurement:
    """One row of results.json.

    Attributes:
        stage: Stage of the checkpoint: sft, curriculum, rl, or a control.
        mode: What stands between question and answer: text, latent, pause, no_cot, or hybrid (latents, then steps in
            text, after a curriculum that was stopped).
        metric: accuracy (greedy), pass@k, the metric of a selector (`METRICS` in selectors.py), or agreement@k.
        ci95: Interval over problems (`share_ci`, `auroc_ci`).
        n: Number of problems.
        guess: For accuracy and pass@k, what k guesses reach (`guess_floor`).
        setting: Name of the setting, and of the file of its samples.
        num_samples: Samples that were drawn of each problem; k of them are taken.
        num_latents: Latents of each thought, if the evaluation asked for a number.
        loops: Loops of each thought, if the evaluation asked for a number.
        thought: `as_text`: the answers were given from what is read of the thought alone.
        answers_per_thought: Answers after each thought.
        search: `Search.name` of the search that found the thoughts; None: they were drawn independently.
        tokens: Answer tokens written for k samples of a problem, on average.
        latents: Latents made for k samples of a problem, on average. Those that a search gave up count.
        monitor: For accuracy, how well each score of what is read in the thoughts tells right answers, by name
            (`EXPECTED` in monitor.py).
        seconds: Wall time of all samples of a problem, scoring included; for selectors that use the latent reward
            model, its time too. None: some samples were read from disk.
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
    setting: str | None = None
    num_samples: int | None = None
    num_latents: int | None = None
    answers_per_thought: int = 1
    search: str | None = None
    tokens: float | None = None
    latents: float | None = None
    loops: int | None = None
    thought: str | None = None
    monitor: dict[str, Monitored] | None = None
    seconds: float | None = field(default=None, compare=False)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Measurement:
        """A row of results.json as read from JSON."""
        monitor = values.get("monitor")
        if monitor is not None:
            monitor = {name: Monitored.from_dict(found) for name, found in monitor.items()}
        return cls(**{**values, "ci95": tuple(values["ci95"]), "monitor": monitor})


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
    monitor: Monitor | None = None,
) -> list[Measurement]:
    """Measures greedy answers and, for each sampling setting, pass@k and what selectors choose.

    Args:
        folder: Where to keep the samples, a file for each setting; None: nowhere.
        source: What tells this checkpoint from others, for the files of samples.
        monitor: Reads the thoughts of greedy answers; None for a checkpoint without thoughts that can be read.

    Raises:
        RewardError: A scorer or a reward to choose by that cannot be used.
        SearchError: A search that does not fit the checkpoint's latents.
    """
    mode = mode_of(reasoner, stage)
    judge = _judge_for(reasoner, settings, (source or {}).get("checkpoint")) if mode == "latent" else None
    if judge is not None:
        source = {**(source or {}), "latent_reward": digest(Path(str(settings.latent_reward)))}
    ways = settings_of(reasoner, settings, problems, mode, judged=judge is not None)
    count = ways[0].num_latents if settings.latents_per_step is None else None  # narrower blocks are still all blocks
    if count is not None and count < reasoner.config.num_latents:
        mode = "text" if count == 0 else "hybrid"
    reward = recipe_reward(settings.selection_reward) if settings.selection_reward is not None else None
    what = {**(source or {}), "scorer": settings.scorer, "max_new_tokens": settings.max_new_tokens}
    answers = [normalise_answer(problem.answer) for problem in problems]
    rows = []
    for way in ways:
        started, effort = time.perf_counter(), Effort()
        file = None if folder is None else SampleFile(folder / f"{way.name}.jsonl", {**what, "setting": way.to_dict()})
        reader = monitor if way.is_greedy and way.num_latents != 0 else None
        sampled = draw_samples(reasoner, problems, way, settings, seed, file, judge, effort, reader)
        spent = time.perf_counter() - started - effort.judging - effort.monitoring
        if PartialState().is_main_process:
            warn_of_unscored(settings.scorer, [row.scores for row in sampled], f" of stage {stage}, {way.name}")
        rewards = selection_rewards(reward, problems, sampled) if reward is not None and not way.is_greedy else None
        for metric, k, value, ci95 in _summaries(sampled, rewards, way, settings, seed):
            rows.append(
                Measurement(
                    stage, mode, metric, k, way.noise, way.temperature, value, ci95, len(problems), seed,
                    guess=guess_floor(answers, k) if metric in ("accuracy", "pass@k") else None,
                    setting=way.name,
                    num_samples=way.n,
                    num_latents=way.num_latents,
                    loops=way.loops,
                    thought=way.thought,
                    monitor=judge_monitor(sampled, settings.bootstrap, seed) if metric == "accuracy" else None,
                    answers_per_thought=way.answers_per_thought,
                    search=way.search.name if way.search is not None else None,
                    tokens=k * float(np.mean([row.tokens for row in sampled])),
                    latents=0.0 if mode == "pause" else _latents(sampled, way, k),
                    seconds=None
                    if effort.reused
                    else (spent + effort.judging * metric.startswith("latent_")) / len(problems),
                )
            )  # fmt: skip
    return rows


def _judge_for(reasoner: Reasoner, settings: EvaluateSection, checkpoint: str | None) -> LatentRewardModel | None:
    """The latent reward model, if it was trained on thoughts of this checkpoint. It cannot judge those of others."""
    if settings.latent_reward is None:
        return None
    judge = load_latent_reward(settings.latent_reward, reasoner)
    if checkpoint is not None and judge.config.checkpoint not in (None, checkpoint):
        logger.warning(
            "The latent reward model in %s was trained for another checkpoint and is left out for this one, and beams "
            "with it. `neuralese reward-model CHECKPOINT` trains one for each.",
            settings.latent_reward,
        )
        return None
    return judge


def _latents(sampled: Sequence[Sampled], way: Setting, k: int) -> float:
    """Mean number of latents that k of n samples of a problem need, over all choices of the k.

    Samples may share a thought, whose latents count once. Without noise all samples share one thought.
    """
    made, shared = float(np.mean([row.latents_made for row in sampled])), way.answers_per_thought
    if not way.has_noise or way.search is not None:
        return made
    return made * (1 - comb(way.n - shared, k) / comb(way.n, k))


def _summaries(
    sampled: Sequence[Sampled], rewards: np.ndarray | None, way: Setting, settings: EvaluateSection, seed: int
) -> Iterator[tuple[str, int, float, tuple[float, float]]]:
    """Metric, k, value and interval of each figure of one setting."""
    right = np.array([row.right for row in sampled])
    if way.is_greedy:
        values = pass_at_k(right, 1)
        yield "accuracy", 1, float(values.mean()), share_ci(values, settings.bootstrap, seed)
        return
    # The samples of a search belong together, so k is all of them.
    ks = settings.k if way.search is None else [way.n]
    found = [("pass@k", k, pass_at_k(right, k)) for k in ks]
    judged = sampled[0].latent_rewards is not None
    names = [name for name in settings.selectors if name in METRICS and (judged or not name.startswith("latent_"))]
    found += [(METRICS[name], k, select(name, sampled, rewards, k)) for name in names for k in ks if k >= fewest(name)]
    for metric, k, values in found:
        yield metric, k, float(values.mean()), share_ci(values, settings.bootstrap, seed)
    if "agreement" in settings.selectors and way.n >= fewest("agreement"):
        sure, voted = agreement([row.answers for row in sampled]), select("majority", sampled, None, way.n)
        told = auroc(sure, voted)
        ends = auroc_ci(sure, voted, settings.bootstrap, seed)
        if not np.isnan([told, *ends]).any():
            yield AGREEMENT, way.n, told, ends


def write_results(path: Path, rows: Sequence[Measurement]) -> None:
    """Writes results.json, whole or not at all."""
    write_whole(path, json.dumps([asdict(row) for row in rows], indent=1) + "\n")


def read_results(path: Path) -> list[Measurement]:
    """The rows of results.json, or of another file of results.

    Raises:
        ResultsError: It holds something else.
    """
    try:
        return [Measurement.from_dict(values) for values in json.loads(path.read_bytes())]
    except (ValueError, TypeError, KeyError) as error:
        raise ResultsError(
            f"{path} holds no results ({reason(error)}). Delete it and measure again: `neuralese train ... --resume` "
            "writes results.json, `neuralese eval` other files."
        ) from error
