"""report.html: one self-contained page about a run. `report.html.j2` is the page, this file what stands in it."""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, Template

from ...recipe.load import load_recipe
from ...recipe.schema import EvaluateSection
from ...scoring.selectors import selector_name
from ...system.files import write_whole
from ...system.integrity import read_json, read_seconds
from ...system.versions import versions
from ..audit.table import VERDICTS, Grid
from ..measure import Measurement, ResultsError, read_results
from ..table import MONITOR_NOTE, costs, metric_name, monitor_rows, results_columns, stage_name, table_rows
from .data import (
    SettingResult,
    chosen_at,
    read_curves,
    read_setting_results,
    selector_k,
)
from .figures import (
    WIDTH,
    Plot,
    frontier,
    learning_curve,
    pass_curves,
    save,
    selector_plot,
    thoughts_map,
    trust_plots,
)

logger = logging.getLogger(__name__)

CURVES = {"loss": "loss (nats)", "accuracy": "held-out greedy accuracy", "reward": "mean reward"}


@dataclass(frozen=True)
class Picture:
    """A plot as it stands in the page.

    Attributes:
        least_rem: Smallest width in rem, for a plot that is wider than a phone; None: as wide as its column.
    """

    caption: str
    svg: str
    least_rem: int | None


@dataclass(frozen=True)
class Section:
    """A part of the page; what is empty is left out."""

    heading: str = ""
    text: str = ""
    note: str = ""
    figures: Sequence[Picture] = ()
    table: Grid | None = None


@dataclass(frozen=True)
class AuditPart:
    """What the page shows of audit.json.

    Attributes:
        subject: What was audited, and how well it answers.
        thoughts: The map of thoughts in words, where they were read.
        readings: Question, and lines about it, of each thought on the map.
    """

    verdict: str
    subject: str
    gates: Grid
    tables: list[Grid]
    thoughts: Picture | None = None
    readings: list[tuple[str, list[str]]] = field(default_factory=list)


def write_report(folder: Path) -> Path:
    """Writes report.html and report/*.png from what a run folder holds.

    It reads recipe.yaml, results.json, metrics.jsonl, seconds.json and samples/, and what came later: audit.json,
    eval.json and eval-samples/. What is not there is left out.
    """
    recipe, images = folder / "recipe.yaml", folder / "report"
    images.mkdir(exist_ok=True)
    for old in report_images(folder).values():
        old.unlink(missing_ok=True)  # another process may write the report too
    rows, again = _rows(folder / "results.json"), _rows(folder / "eval.json")
    seconds = read_seconds(folder)
    resamples = (load_recipe(recipe).evaluate if recipe.is_file() else EvaluateSection()).bootstrap
    results = read_setting_results(folder / "samples", rows, resamples)
    curves = _plots("Learning curves", _learning_curves(folder), images)
    measured = [_stages(rows, seconds), *curves, *_passes(results, images), *_selectors(results, images)]
    measured += _monitor(rows)
    again_sections: list[Section] = []
    if again:
        found = read_setting_results(folder / "eval-samples", again, resamples)
        again_sections = [_stages(again, {}), *_passes(found, images, "eval-"), *_selectors(found, images, "eval-")]
        again_sections += _monitor(again)
    audit = read_json(folder / "audit.json", "The report leaves it out.")
    path = folder / "report.html"
    text = _template().render(
        name=folder.name,
        measured=measured,
        again=again_sections,
        audit=_audit(audit, images) if audit is not None else None,
        may_be_audited=any(row.mode in ("latent", "hybrid") for row in rows),
        timings=_timings(seconds, rows),
        recipe=recipe.read_text(encoding="utf-8") if recipe.is_file() else "",
        versions=_versions(),
    )
    write_whole(path, text)
    return path


def report_images(folder: Path) -> dict[str, Path]:
    """The PNG files of a run's report by name."""
    return {path.stem: path for path in sorted((folder / "report").glob("*.png"))}


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("neuralese.pipeline.evaluate.report", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")


def _picture(plot: Plot, images: Path, prefix: str = "") -> Picture:
    """Draws a plot, and keeps it as a PNG file too, whose name begins with `prefix`."""
    inches = plot.figure.get_figwidth()
    return Picture(plot.caption, save(plot, images, prefix), round(4 * inches) if inches > WIDTH else None)


def _plots(heading: str, plots: Iterable[Plot], images: Path, prefix: str = "", note: str = "") -> list[Section]:
    """A section of plots; none without plots."""
    figures = [_picture(plot, images, prefix) for plot in plots]
    return [Section(heading, note=note, figures=figures)] if figures else []


def _stages(rows: Sequence[Measurement], seconds: dict[str, float]) -> Section:
    """The table of the stages."""
    if not rows:
        return Section(note="Nothing was measured yet.")
    headings = ["model", "samples", *(metric_name(*column) for column in results_columns(rows)), "train s"]
    text = (
        f"{rows[0].n} evaluation problems, seed {rows[0].seed}. Brackets: 95% intervals over problems. "
        "One run: differences between seeds are not in the intervals."
    )
    return Section(text=text, table=Grid("", headings, table_rows(rows, seconds)))


def _passes(results: Sequence[SettingResult], images: Path, prefix: str = "") -> list[Section]:
    """pass@k against k, and pass@1 against pass@n."""
    drawn = [one for one in results if not one.is_search]
    note = "" if all(one.is_kept for one in drawn) else "Without kept samples only the measured k."
    found = frontier(drawn)
    return [
        *_plots("pass@k", pass_curves(drawn), images, prefix, note),
        *_plots("pass@1 against pass@k", [found] if found is not None else [], images, prefix),
    ]


def _monitor(rows: Sequence[Measurement]) -> list[Section]:
    """How well what is read in thoughts tells wrong answers; none where nothing was read."""
    headings, lines = monitor_rows(rows)
    return [Section("Thoughts that are read", note=MONITOR_NOTE, table=Grid("", headings, lines))] if lines else []


def _selectors(results: Sequence[SettingResult], images: Path, prefix: str = "") -> list[Section]:
    """How far agreement can be trusted, what selectors make of the same samples, and what the samples cost."""
    sections = _plots("Agreement", trust_plots(results), images, prefix)
    k = selector_k(results) or 0
    ours = [one for one in results if len(chosen_at(one, k)) > 1]
    if not ours:
        return sections
    metrics = list(dict.fromkeys(metric for one in ours for metric in chosen_at(one, k)))
    note = (
        "Every selector of a line chooses among the same samples, so that a line is equal compute: the tokens "
        "written and the latents fed back for a problem, those included that a search gave up, and its wall time. "
        "Pause tokens count as neither. Oracle: one of the samples is right."
    )
    lines = []
    for one in ours:
        found = chosen_at(one, k)
        shares = [f"{found[metric].value:.3f}" if metric in found else "" for metric in metrics]
        rows = list(found.values())
        lines.append([one.model, one.setting, str(rows[0].k), *shares, *costs(rows)])
    headings = ["model", "samples", "k", *(selector_name(metric) for metric in metrics), "latents", "tokens", "ms"]
    figures = [_picture(selector_plot(ours, k), images, prefix)]
    return [*sections, Section("Selectors", note=note, figures=figures, table=Grid("", headings, lines))]


def _audit(found: dict[str, Any], images: Path) -> AuditPart:
    gates = [[gate["name"], VERDICTS[gate["passed"]], gate["because"]] for gate in found["gates"]]
    tables = found.get("tables", [])  # audits of earlier versions lack them
    readings = found["readings"]
    are_read = readings and "hits" in readings[0]
    return AuditPart(
        verdict=found["verdict"],
        subject=f"{found['checkpoint']}, {found['problems']} problems, accuracy {_share(found['accuracy'])}.",
        gates=Grid("", ["gate", "", "because"], gates),
        tables=[Grid(**one) for one in tables],
        thoughts=_picture(thoughts_map(readings), images) if are_read else None,
        readings=[(one["question"], _reading(one)) for one in readings] if are_read else [],
    )


def _reading(reading: dict[str, Any]) -> list[str]:
    """Lines about a thought that was read."""
    lines = [f"steps: {' | '.join(reading['steps'])}", f"answer of the model: {' '.join(reading['answer'].split())}"]
    return lines if reading["decoded"] is None else [*lines, f"decoder: {' | '.join(reading['decoded'])}"]


def _timings(seconds: dict[str, float], rows: Sequence[Measurement]) -> Grid | None:
    if not seconds:
        return None
    names = {row.stage: stage_name(row) for row in rows}
    lines = [[names.get(stage, stage), f"{spent:.1f}"] for stage, spent in seconds.items()]
    return Grid("", ["", "seconds"], [*lines, ["in all", f"{sum(seconds.values()):.1f}"]])


def _versions() -> str:
    named = ", ".join(f"{name} {number}" for name, number in versions().items())
    return f"Written with {named}, Python {platform.python_version()}."


def _learning_curves(folder: Path) -> list[Plot]:
    found = {metric: read_curves(folder, metric) for metric in CURVES}
    return [learning_curve(metric, CURVES[metric], curves) for metric, curves in found.items() if curves]


def _rows(path: Path) -> list[Measurement]:
    """Rows of results; none where the file is not there or cannot be read."""
    try:
        return read_results(path) if path.is_file() else []
    except ResultsError as error:
        logger.warning("The report leaves out what it cannot read: %s", error)
        return []


def _share(mean: dict[str, Any] | None) -> str:
    return "" if mean is None else f"{mean['value']:.3f} ({mean['ci95'][0]:.2f}-{mean['ci95'][1]:.2f})"
