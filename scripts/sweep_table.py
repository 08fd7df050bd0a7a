"""Markdown tables: a row for each arm, stage and setting, with mean and interval over seeds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any

from scipy.stats import t as student
from sweep_cells import Row, changed_keys, read_row
from sweep_file import PLACE, Cell, Sweep, SweepError

from neuralese.pipeline.evaluate.measure import Measurement
from neuralese.pipeline.evaluate.table import metric_name, results_columns, setting_name, stage_name
from neuralese.pipeline.recipe.load import nearest
from neuralese.pipeline.statistics.intervals import wilson_ci

STOPPED, STALE = "*", "†"
LEGEND = {
    STOPPED: "a run whose latent curriculum stopped below its threshold",
    STALE: "measured with another recipe than the present one",
    "≥": "some runs were started more than once; what a killed start had spent is not counted",
    "limit": "the level ended at its step limit, below its threshold",
}
Column = tuple[str, int]  # metric and k, as in Measurement


@dataclass(frozen=True)
class Run:
    """What the tables show of one run. A missing run has no results."""

    seed: int
    results: Sequence[Measurement] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    reports: dict[str, dict[str, Any]] = field(default_factory=dict)
    held_out: Sequence[dict[str, Any]] = ()
    resumed: bool = False
    mark: str = ""  # printed behind each of its values


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed, and the stages to show of them (None: all)."""

    label: str
    runs: Sequence[Run]
    stages: Sequence[str] | None = None


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95% interval of the mean over seeds: m ± t(0.975, n - 1) · s / √n. Not cut to 0..1."""
    half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return mean(values) - half, mean(values) + half


def interval_of(rows: Sequence[Measurement]) -> tuple[float, float]:
    """95% interval of a measurement over its seeds; of a single run over its problems.

    Where all runs are equal to three digits Student's t would give a point. Then the interval is Wilson's for that
    share of the problems of one run.
    """
    values, first = [row.value for row in rows], rows[0]
    if len(rows) == 1:
        return first.ci95
    is_equal = len({round(value, 3) for value in values}) == 1
    return wilson_ci(round(first.value * first.n), first.n) if is_equal else interval(values)


def results_table(groups: Sequence[Group], columns: Sequence[Column]) -> list[str]:
    """Lines of a table with a row for each group, stage and setting."""
    named = any(group.label for group in groups)
    headings = ["arm"] * named + ["model", "samples", "problems", *(metric_name(*column) for column in columns)]
    lines = ["| " + " | ".join([*headings, "train s"]) + " |", "|" + "---|" * (len(headings) + 1)]
    for group in groups:
        for cells in group_rows(group, columns):
            lines.append("| " + " | ".join([group.label] * named + cells) + " |")
    return lines


def group_rows(group: Group, columns: Sequence[Column]) -> list[list[str]]:
    """Table cells of the rows of a group. The first row of a stage has its training seconds."""
    found: dict[str, dict[str, None]] = {}  # stage -> its settings, in the order of the results
    for run in group.runs:
        for row in run.results:
            if (group.stages is None or row.stage in group.stages) and (row.metric, row.k) in columns:
                found.setdefault(row.stage, {})[setting_name(row)] = None
    lines = []
    for stage, settings in found.items():
        name = stage_name(next(row for run in group.runs for row in run.results if row.stage == stage))
        spent = seconds_cell(group.runs, stage)
        for setting in settings:
            ours = [[row for row in run.results if (row.stage, setting_name(row)) == (stage, setting)]
                    for run in group.runs]  # fmt: skip
            problems = ", ".join(map(str, sorted({row.n for rows in ours for row in rows})))
            values = [value_cell(group.runs, [_at(rows, column) for rows in ours]) for column in columns]
            lines.append([name, setting, problems, *values, spent])
            spent = ""
    return lines or [["missing", "", "", *[""] * len(columns), ""]]


def _at(rows: Sequence[Measurement], column: Column) -> Measurement | None:
    return next((row for row in rows if (row.metric, row.k) == column), None)


def value_cell(runs: Sequence[Run], rows: Sequence[Measurement | None]) -> str:
    """Mean, 95% interval and the value of each run. A single run has its interval over problems."""
    there = [row for row in rows if row is not None]
    if not there:
        return ""
    each = ", ".join(
        "missing" if row is None else f"{row.value:.3f}{run.mark}" for run, row in zip(runs, rows, strict=True)
    )
    values = [row.value for row in there]
    low, high = interval_of(there)
    text = f"{mean(values):.3f} [{low:.3f}, {high:.3f}]"
    if len(values) > 1:
        return f"{text} ({each})"
    return f"{each} [{low:.3f}, {high:.3f}] one seed" if len(runs) == 1 else f"{text} one seed ({each})"


def seconds_cell(runs: Sequence[Run], stage: str) -> str:
    """Mean training seconds of a stage."""
    timed = [run for run in runs if stage in run.seconds]
    if not timed:
        return ""
    return ("≥ " if any(run.resumed for run in timed) else "") + f"{mean(run.seconds[stage] for run in timed):.0f}"


def levels_table(groups: Sequence[Group]) -> list[str]:
    """Lines of a table of the steps at which the levels of each shown curriculum ended, and the accuracy there."""
    found: dict[tuple[str, str, int], dict[int, list[str]]] = {}
    for group in groups:
        for run in group.runs:
            for path, report in run.reports.items():
                match = re.fullmatch(r"(.+)/level-(\d+)(-again-\d+)?", path)
                if match is not None and (group.stages is None or match[1] in group.stages):
                    cell = f"{report['steps']} ({report['accuracy']:.2f})"
                    cell += " limit" if report["target"] is not None and not report["promoted"] else ""
                    levels = found.setdefault((group.label, match[1], run.seed), {})
                    levels.setdefault(int(match[2]), []).append(cell)
    numbers = sorted({number for cells in found.values() for number in cells})
    if not numbers:
        return []
    headings = ["arm", "curriculum", "seed", *(f"level {number}" for number in numbers)]
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    for (label, part, seed), cells in found.items():
        visits = [", again ".join(cells.get(number, [])) for number in numbers]
        lines.append("| " + " | ".join([label, part, str(seed), *visits]) + " |")
    return lines


def held_out_table(groups: Sequence[Group], names: Sequence[str]) -> list[str]:
    """Lines of a table of what RL measured on held-out problems: a row for each group and step of a measurement.

    Raises:
        SweepError: No run measured one of the names.
    """
    found = [(group, row["step"]) for group in groups for run in group.runs for row in run.held_out]
    known = list(dict.fromkeys(name for group in groups for run in group.runs for row in run.held_out for name in row))
    for name in names:
        if found and name not in known:
            raise SweepError(f"show.held_out: no run measured {name!r}{nearest(name, known)}.")
    if not found or not names:
        return []
    lines = ["| " + " | ".join(["arm", "RL steps", *names]) + " |", "|" + "---|" * (len(names) + 2)]
    for group, step in dict.fromkeys((group.label, step) for group, step in found):
        runs = next(other for other in groups if other.label == group).runs
        rows = [row for run in runs for row in run.held_out if row["step"] == step]
        cells = [_logged_cell([row[name] for row in rows if name in row]) for name in names]
        lines.append("| " + " | ".join([group, str(step), *cells]) + " |")
    return lines


def _logged_cell(values: Sequence[float]) -> str:
    if not values:
        return ""
    each = ", ".join(f"{value:.3f}" for value in values)
    return f"{mean(values):.3f} ({each})" if len(values) > 1 else f"{each} one seed"


def legend(lines: Sequence[str]) -> str:
    """Explanation of the marks that the lines contain."""
    text = "\n".join(lines)
    return "; ".join(f"`{mark}` {meaning}" for mark, meaning in LEGEND.items() if mark in text)


def render_sweep(name: str, sweep: Sweep, cells: Sequence[Cell]) -> str:
    """The tables of a sweep, as they stand between the markers of its page.

    Raises:
        SweepError: A stage or metric to show that no result has.
    """
    rows = [(cell, read_row(cell)) for cell in cells]
    groups = []
    for name_of_arm, arm in sweep.arms.items():
        label = arm.label or name_of_arm
        if arm.seeds is not None and arm.seeds != sweep.seeds:
            label += f" (seed{'s' * (len(arm.seeds) > 1)} {', '.join(map(str, arm.seeds))})"
        runs = [run_of(cell, row) for cell, row in rows if cell.arm == name_of_arm]
        groups.append(Group(label, runs, arm.stages or sweep.show.stages))
    table = results_table(groups, shown_columns(sweep, groups))
    levels = levels_table(groups)
    held_out = held_out_table(groups, sweep.show.held_out)
    known = [row for _, row in rows if row is not None]
    commits = sorted({commit for row in known for commit in row.commit.split(", ")})
    threads = sorted({row.threads for row in known})
    parts = [
        f"**{sweep.title}.** Mean [95% interval] (seeds {', '.join(map(str, sweep.seeds))}); intervals: Student t over "
        "seeds; for one seed, or where seeds are equal, over problems (docs/algorithm.md, Evaluation).",
        "\n".join(table),
        "Steps at which the levels of the curriculum ended (held-out accuracy there):\n\n" + "\n".join(levels)
        if levels
        else "",
        "Measured on held-out problems during RL, mean (each seed):\n\n" + "\n".join(held_out) if held_out else "",
        legend([*table, *levels]),
        f"`python scripts/sweep.py {PLACE / name}.yaml`, measured at commit {', '.join(commits) or 'none'}; threads a "
        f"run: {', '.join(map(str, threads)) or 'none'}.",
    ]
    return "\n\n".join(part for part in parts if part)


def run_of(cell: Cell, row: Row | None) -> Run:
    if row is None:
        return Run(cell.seed)
    results = [Measurement.from_dict(values) for values in row.results]
    mark = STOPPED * row.stopped + STALE * bool(changed_keys(row, cell.recipe))
    return Run(cell.seed, results, row.seconds, row.reports, row.held_out, row.resumed, mark)


def shown_columns(sweep: Sweep, groups: Sequence[Group]) -> list[Column]:
    """The (metric, k) pairs that the sweep shows.

    Raises:
        SweepError: No result has a metric or a stage that is to be shown.
    """
    columns = []
    for metric in sweep.show.metrics:
        kind, _, k = metric.partition("@")
        columns.append((f"{kind}@k", int(k)) if k else (kind, 1))
    results = [row for group in groups for run in group.runs for row in run.results]
    if results:
        known = [f"{kind.partition('@')[0]}@{k}" if "@" in kind else kind for kind, k in results_columns(results)]
        for metric in sweep.show.metrics:
            if metric not in known:
                raise SweepError(f"show.metrics: no result has {metric!r}{nearest(metric, known)}.")
        stages = list(dict.fromkeys(row.stage for row in results))
        there = [group for group in groups if any(run.results for run in group.runs)]
        wanted = [stage for group in there for stage in group.stages or []]
        for stage in wanted:
            if stage not in stages:
                raise SweepError(f"No result is of the stage {stage!r} to be shown{nearest(stage, stages)}.")
    return columns
