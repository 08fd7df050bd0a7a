"""The data of a report's figures: learning curves, pass@k, and what selectors reach at what cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...scoring.problem_samples import Sampled
from ...scoring.sample_files import SamplesError
from ...scoring.selectors import AGREEMENT, METRICS, select
from ...statistics.at_k import agreement, pass_at_k
from ...statistics.intervals import share_ci
from ...tracking.metrics_file import read_rows
from ..measure import Measurement
from ..table import setting_name, stage_name

Point = tuple[int, float, float, float]


@dataclass(frozen=True)
class SettingResult:
    """What a checkpoint reaches with samples of one setting.

    Attributes:
        stage: The checkpoint's stage.
        model: The stage in words.
        setting: The setting in words.
        points: (k, pass@k, low end, high end of the 95% interval) for each k. A search has one k.
        guess: (k, pass@k of k guesses), if measured.
        measured: Its rows of results.json.
        is_kept: Whether its samples are on disk.
        trust: (mean agreement, share of right majorities, problems) for each fifth of the agreement, if measured.
    """

    stage: str
    model: str
    setting: str
    points: list[Point]
    guess: list[tuple[int, float]]
    measured: list[Measurement]
    is_kept: bool = False
    trust: list[tuple[float, float, int]] = field(default_factory=list)

    @property
    def is_search(self) -> bool:
        """Whether a search found its samples."""
        return self.measured[0].search is not None


def read_curves(folder: Path, metric: str) -> dict[str, list[tuple[int, float]]]:
    """(optimizer step, value) of a logged metric, for each stage that has it, in the order of training."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for row in read_rows(folder / "metrics.jsonl"):
        if isinstance(row.get(metric), int | float):
            curves.setdefault(row["stage"], []).append((row["step"], row[metric]))
    return {stage: sorted(points) for stage, points in curves.items()}


def read_setting_results(samples: Path, rows: Sequence[Measurement], resamples: int) -> list[SettingResult]:
    """Results of every checkpoint and setting that was measured, from the kept samples where there are any.

    Sample files of other evaluations in the same folder are not read.

    Args:
        samples: Folder with a folder of samples for each stage.
        resamples: Resamples of the bootstrap behind the 95% intervals.
    """
    found: dict[tuple[str, str], list[Measurement]] = {}
    for row in rows:
        if row.metric != "accuracy":
            found.setdefault((row.stage, row.setting or setting_name(row)), []).append(row)
    results = []
    for (stage, name), ours in found.items():
        sampled = None
        if ours[0].search is None:
            sampled = _read_sampled(samples / stage / f"{name}.jsonl", ours[0].n)
        passed = {row.k: row for row in ours if row.metric == "pass@k"}
        results.append(
            SettingResult(
                stage,
                stage_name(ours[0]),
                setting_name(ours[0]),
                [(k, passed[k].value, *passed[k].ci95) for k in sorted(passed)]
                if sampled is None
                else _points(sampled, sorted(passed), resamples, ours[0].seed),
                [(k, guess) for k in sorted(passed) if (guess := passed[k].guess) is not None],
                ours,
                sampled is not None,
                _trust(sampled) if sampled is not None and any(row.metric == AGREEMENT for row in ours) else [],
            )
        )
    return [result for result in results if result.points]


def _read_sampled(path: Path, problems: int) -> list[Sampled] | None:
    """The samples of all problems; None if the file does not hold them all."""
    if not path.is_file():
        return None
    try:
        _, rows = Sampled.read(path)
    except SamplesError:
        return None
    return rows if len(rows) == problems else None


def _points(sampled: Sequence[Sampled], measured: Sequence[int], resamples: int, seed: int) -> list[Point]:
    """pass@k at every power of two, at the number of samples, and at each k that was measured."""
    right = np.array([row.right for row in sampled])  # (P, n)
    n = right.shape[1]
    ks = sorted({2**i for i in range(n.bit_length())} | {n} | {k for k in measured if k <= n})
    values = {k: pass_at_k(right, k) for k in ks}
    return [(k, float(values[k].mean()), *share_ci(values[k], resamples, seed)) for k in ks]


def _trust(sampled: Sequence[Sampled]) -> list[tuple[float, float, int]]:
    """Mean agreement, share of right majorities and problems, for each fifth of the agreement that has problems."""
    sure, right = agreement([row.answers for row in sampled]), select("majority", sampled, None, len(sampled[0].texts))
    fifth = np.ceil(np.round(5 * sure, 9))
    return [
        (float(sure[here].mean()), float(right[here].mean()), int(here.sum()))
        for place in range(1, 6)
        if (here := fifth == place).any()
    ]


def selector_k(results: Sequence[SettingResult]) -> int | None:
    """The k at which selectors and searches are compared; None: no selector was measured.

    Only a k at which every setting has all its selectors is considered. Without searches it is the largest such k. With
    searches it is the k whose samples cost as much as the searches did, as nearly as possible, in latents and tokens.
    """
    drawn = [one for one in results if not one.is_search]
    ks = [{row.k for row in one.measured if row.metric in METRICS.values()} for one in drawn]
    common = set.intersection(*[one for one in ks if one] or [set()])
    spent = [_cost(row) for one in results if one.is_search for row in one.measured]
    by_k = {k: np.mean([_cost(row) for one in drawn for row in one.measured if row.k == k]) for k in sorted(common)}
    if not spent or min(by_k.values(), default=0.0) == 0.0:
        return max(common, default=None)
    return min(by_k, key=lambda k: abs(np.log(by_k[k] / np.mean(spent))))


def _cost(row: Measurement) -> float:
    """Latents and tokens together, for one problem."""
    return (row.latents or 0.0) + (row.tokens or 0.0)


def chosen_at(result: SettingResult, k: int) -> dict[str, Measurement]:
    """What each selector reaches with k samples; a search counts with all its samples.

    Last comes the oracle, pass@k: one of the samples is right.
    """
    rows = {row.metric: row for row in result.measured if row.k == k or result.is_search}
    return {metric: rows[metric] for metric in (*METRICS.values(), "pass@k") if metric in rows}
