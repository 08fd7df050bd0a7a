"""report.html: one self-contained page about a run, with its table and learning curves."""

from __future__ import annotations

import html
import io
import json
import platform
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from .evaluate import read_results
from .table import metric_name, results_columns, table_rows

CURVES = {"loss": "loss (nats)", "accuracy": "held-out greedy accuracy", "reward": "mean reward"}
PACKAGES = ("torch", "transformers", "trl", "accelerate", "peft")
STYLE = """
:root { color-scheme: light dark; --line: #8884; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .7rem .3rem 0; text-align: left; white-space: nowrap; }
figure { margin: 1rem 0; background: #fff; border-radius: .5rem; padding: .5rem; }
svg { width: 100%; height: auto; }
pre { overflow-x: auto; background: #8881; padding: 1rem; border-radius: .5rem; font-size: .85rem; }
"""


def write_report(folder: Path) -> Path:
    """Writes report.html from the run folder's recipe.yaml, results.json, seconds.json and metrics.jsonl."""
    rows = read_results(folder / "results.json")
    times = folder / "seconds.json"
    seconds = json.loads(times.read_text()) if times.is_file() else {}
    headings = ["model", "samples", *(metric_name(*c) for c in results_columns(rows)), "train s"]
    recipe = (folder / "recipe.yaml").read_text(encoding="utf-8")
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    name = html.escape(folder.name)
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}</title><style>{STYLE}</style></head><body>
<h1>{name}</h1>
<p>{rows[0].n} evaluation problems, seed {rows[0].seed}. Brackets: bootstrap 95% intervals over problems.
One run: differences between seeds are not in the intervals.</p>
<div class="wide">{_table(headings, table_rows(rows, seconds))}</div>
<h2>Learning curves</h2>
{"".join(f"<figure>{_curves(key, label, folder)}</figure>" for key, label in CURVES.items())}
<h2>Recipe</h2><pre>{html.escape(recipe)}</pre>
<p>{html.escape(versions)}, Python {platform.python_version()}.</p>
</body></html>
"""
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def _table(headings: list[str], lines: list[list[str]]) -> str:
    def row(cells: list[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return f"<table>{row(headings, 'th')}{''.join(row(line, 'td') for line in lines)}</table>"


def _curves(key: str, label: str, folder: Path) -> str:
    """An SVG with one line for each stage that logged the metric."""
    lines: dict[str, list[tuple[int, float]]] = defaultdict(list)
    metrics = folder / "metrics.jsonl"
    for text in metrics.read_text(encoding="utf-8").splitlines() if metrics.is_file() else []:
        row: dict[str, Any] = json.loads(text)
        if isinstance(row.get(key), int | float):
            lines[row["stage"]].append((row["step"], row[key]))
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    for stage, points in lines.items():
        axes.plot(*zip(*sorted(points), strict=True), label=stage, marker="." if len(points) < 40 else None)
    axes.set(xlabel="optimizer step of the stage", ylabel=label)
    axes.spines[["top", "right"]].set_visible(False)
    if lines:
        axes.legend(frameon=False)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "neuralese"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]
