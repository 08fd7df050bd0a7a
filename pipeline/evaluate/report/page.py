"""report.html: one self-contained page about a run, for phones and wide screens, light and dark."""

from __future__ import annotations

import html
import logging
import platform
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...recipe.load import load_recipe
from ...recipe.schema import EvaluateSection
from ...scoring.selection import selector_name
from ...system.files import write_whole
from ...system.whole import read_json, read_seconds
from ..audit.table import VERDICTS
from ..measure import Measurement, ResultsError, read_results
from ..table import costs, metric_name, results_columns, stage_name, table_rows
from .data import Sampling, chosen_at, read_curves, read_samplings, selector_k
from .figures import WIDTH, Plot, frontier, learning_curve, pass_curves, save, selector_plot, thoughts_map, trust_plots

logger = logging.getLogger(__name__)

CURVES = {"loss": "loss (nats)", "accuracy": "held-out greedy accuracy", "reward": "mean reward"}
PACKAGES = ("neuralese", "torch", "transformers", "trl", "accelerate", "peft")
STYLE = """
:root { color-scheme: light dark; --line: #8884; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 0 auto; padding: 1rem; }
h1, p, li, figcaption { overflow-wrap: anywhere; }
h2 { margin: 2.5rem 0 .5rem; border-top: 1px solid var(--line); padding-top: 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; margin: .5rem 0; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .9rem .3rem 0; text-align: left; white-space: nowrap; }
.prose td { white-space: normal; vertical-align: top; }
@media (max-width: 40rem) { td:first-child { white-space: normal; min-width: 6rem; } }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1rem; }
figure { margin: 0; background: #fff; color: #333; border-radius: .5rem; padding: .5rem; max-width: 38rem; }
figure.wide { grid-column: 1 / -1; max-width: none; }
figure div { overflow-x: auto; }
figcaption { font-size: .85rem; padding: .25rem .5rem; }
svg { display: block; width: 100%; height: auto; }
pre { overflow-x: auto; background: #8881; padding: 1rem; border-radius: .5rem; font-size: .85rem; }
.note { opacity: .8; font-size: .9rem; }
@media (prefers-color-scheme: dark) { figure { filter: invert(.93) hue-rotate(180deg); } }
"""


def write_report(folder: Path) -> Path:
    """Writes report.html and report/*.png from what a run folder holds.

    It reads recipe.yaml, results.json, metrics.jsonl, seconds.json and samples/, and what came later: audit.json,
    eval.json and eval-samples/. What is not there is left out.
    """
    recipe = folder / "recipe.yaml"
    rows = _rows(folder / "results.json")
    seconds = read_seconds(folder)
    settings = load_recipe(recipe).evaluate if recipe.is_file() else EvaluateSection()
    samplings = read_samplings(folder / "samples", rows, settings.bootstrap)
    page = _Page(folder)
    page.results(rows, seconds)
    page.plots("Learning curves", "", _learning_curves(folder))
    page.passes(samplings)
    page.selectors(samplings)
    again = _rows(folder / "eval.json")
    if again:
        page.evaluated_again(again, read_samplings(folder / "eval-samples", again, settings.bootstrap))
    page.audit(read_json(folder / "audit.json", "The report leaves it out."), rows)
    page.timings(seconds, rows)
    page.recipe(recipe)
    path = folder / "report.html"
    write_whole(path, page.text())
    return path


def report_images(folder: Path) -> dict[str, Path]:
    """The PNG files of a run's report by name."""
    return {path.stem: path for path in sorted((folder / "report").glob("*.png"))}


class _Page:
    """Sections in the order they are added; their plots are written as PNG too."""

    def __init__(self, folder: Path) -> None:
        self.name, self.images, self.parts = folder.name, folder / "report", list[str]()
        self.prefix, self.level = "", 2  # of the PNG files, and of the headings
        self.images.mkdir(exist_ok=True)
        for old in report_images(folder).values():
            old.unlink(missing_ok=True)  # another process may write the report too

    def text(self) -> str:
        title = html.escape(self.name)
        return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{STYLE}</style></head><body>
<h1>{title}</h1>
{chr(10).join(self.parts)}
</body></html>
"""

    def plots(self, heading: str, note: str, plots: Iterable[Plot]) -> None:
        """A section of plots; none without plots."""
        shown = "".join(self._figure(plot) for plot in plots)
        if shown:
            title = f"<h{self.level}>{html.escape(heading)}</h{self.level}>"
            self.parts += [title, _note(note), f'<div class="plots">{shown}</div>']

    def _figure(self, plot: Plot) -> str:
        caption = html.escape(plot.caption)
        inches = plot.figure.get_figwidth()
        # A figure wider than a phone keeps the size of its letters, and scrolls.
        style, least = (' class="wide"', f' style="min-width:{4 * inches:.0f}rem"') if inches > WIDTH else ("", "")
        svg = save(plot, self.images, self.prefix)
        return (
            f'<figure{style}><div><div role="img" aria-label="{caption}"{least}>{svg}</div></div>'
            f"<figcaption>{caption}</figcaption></figure>"
        )

    def results(self, rows: Sequence[Measurement], seconds: dict[str, float]) -> None:
        """The stage table."""
        if not rows:
            self.parts.append(_note("Nothing was measured yet."))
            return
        headings = ["model", "samples", *(metric_name(*c) for c in results_columns(rows)), "train s"]
        text = (
            f"{rows[0].n} evaluation problems, seed {rows[0].seed}. Brackets: 95% intervals over problems. "
            "One run: differences between seeds are not in the intervals."
        )
        self.parts += [f"<p>{text}</p>", _table(headings, table_rows(rows, seconds))]

    def passes(self, samplings: Sequence[Sampling]) -> None:
        """pass@k against k, and pass@1 against pass@n."""
        drawn = [one for one in samplings if not one.is_search]
        note = "" if all(one.is_kept for one in drawn) else "Without kept samples only the measured k."
        found = frontier(drawn)
        self.plots("pass@k", note, pass_curves(drawn))
        self.plots("pass@1 against pass@k", "", [found] if found is not None else [])

    def selectors(self, samplings: Sequence[Sampling]) -> None:
        """How far their agreement can be trusted, what selectors make of the same samples, and what those cost."""
        self.plots("Agreement", "", trust_plots(samplings))
        k = selector_k(samplings) or 0
        ours = [one for one in samplings if len(chosen_at(one, k)) > 1]
        if not ours:
            return
        metrics = list(dict.fromkeys(metric for one in ours for metric in chosen_at(one, k)))
        note = (
            "Every selector of a line chooses among the same samples, so that a line is equal compute: the tokens "
            "written and the latents fed back for a problem, those included that a search gave up, and its wall time. "
            "Pause tokens count as neither. Oracle: one of the samples is right."
        )
        self.plots("Selectors", note, [selector_plot(ours, k)])
        lines = []
        for one in ours:
            found = chosen_at(one, k)
            shares = [f"{found[metric].value:.3f}" if metric in found else "" for metric in metrics]
            rows = list(found.values())
            lines.append([one.model, one.setting, str(rows[0].k), *shares, *costs(rows)])
        names = [selector_name(metric) for metric in metrics]
        self.parts.append(_table(["model", "samples", "k", *names, "latents", "tokens", "ms"], lines))

    def evaluated_again(self, rows: Sequence[Measurement], samplings: Sequence[Sampling]) -> None:
        """What `neuralese eval` measured of the run after it had ended."""
        with self._section("Evaluated again", "eval-"):
            self.results(rows, {})
            self.passes(samplings)
            self.selectors(samplings)

    @contextmanager
    def _section(self, heading: str, prefix: str = "") -> Iterator[None]:
        """A section with parts of its own, whose PNG files begin with a prefix."""
        self.parts.append(f"<h2>{html.escape(heading)}</h2>")
        self.prefix, self.level = prefix, 3
        yield
        self.prefix, self.level = "", 2

    def audit(self, found: dict[str, Any] | None, rows: Sequence[Measurement]) -> None:
        """The audit, or how to make it where a model with latents was measured."""
        if found is not None:
            with self._section("Audit"):
                self._audited(found)
        elif any(row.mode in ("latent", "hybrid") for row in rows):
            with self._section("Audit"):
                self.parts.append("<p>Not audited. <code>neuralese audit</code> with this folder adds it.</p>")

    def _audited(self, found: dict[str, Any]) -> None:
        gates = [[gate["name"], VERDICTS[gate["passed"]], gate["because"]] for gate in found["gates"]]
        self.parts += [
            f"<p><strong>{html.escape(found['verdict'])}</strong></p>",
            _note(f"{found['checkpoint']}, {found['problems']} problems, accuracy {_share(found['accuracy'])}."),
            _table(["gate", "", "because"], gates, "prose"),
        ]
        for grid in found.get("tables", []):  # audits of earlier versions lack them
            self.parts += [f"<h3>{html.escape(grid['title'])}</h3>", _table(grid["headings"], grid["rows"])]
            self.parts.append(_note(grid["caption"] or ""))
        readings = found["readings"]
        if readings and "hits" in readings[0]:
            self.plots("Thoughts in words", "", [thoughts_map(readings)])
            self.parts.append(f"<ol>{''.join(_reading(one) for one in readings)}</ol>")

    def timings(self, seconds: dict[str, float], rows: Sequence[Measurement]) -> None:
        if seconds:
            names = {row.stage: stage_name(row) for row in rows}
            lines = [[names.get(stage, stage), f"{spent:.1f}"] for stage, spent in seconds.items()]
            lines.append(["in all", f"{sum(seconds.values()):.1f}"])
            self.parts += ["<h2>Timings</h2>", _table(["", "seconds"], lines)]

    def recipe(self, file: Path) -> None:
        if file.is_file():
            text = html.escape(file.read_text(encoding="utf-8"))
            self.parts.append(f"<h2>Recipe</h2><details><summary>Resolved</summary><pre>{text}</pre></details>")
        versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
        self.parts.append(_note(f"Written with {versions}, Python {platform.python_version()}."))


def _learning_curves(folder: Path) -> list[Plot]:
    found = {metric: read_curves(folder, metric) for metric in CURVES}
    return [learning_curve(metric, CURVES[metric], curves) for metric, curves in found.items() if curves]


def _reading(reading: dict[str, Any]) -> str:
    lines = [f"steps: {' | '.join(reading['steps'])}", f"answer of the model: {' '.join(reading['answer'].split())}"]
    if reading["decoded"] is not None:
        lines.append(f"decoder: {' | '.join(reading['decoded'])}")
    rest = "".join(f"<br>{html.escape(line)}" for line in lines)
    return f'<li>{html.escape(reading["question"])}<span class="note">{rest}</span></li>'


def _rows(path: Path) -> list[Measurement]:
    """Rows of results; none where they are not there or cannot be read."""
    try:
        return read_results(path) if path.is_file() else []
    except ResultsError as error:
        logger.warning("The report leaves out what it cannot read: %s", error)
        return []


def _note(text: str) -> str:
    return f'<p class="note">{html.escape(text)}</p>' if text else ""


def _share(mean: dict[str, Any] | None) -> str:
    return "" if mean is None else f"{mean['value']:.3f} ({mean['ci95'][0]:.2f}-{mean['ci95'][1]:.2f})"


def _table(headings: Sequence[str], lines: Sequence[Sequence[str]], style: str = "") -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    rows = row(headings, "th") + "".join(row(line, "td") for line in lines)
    return f'<div class="wide {style}"><table>{rows}</table></div>'
