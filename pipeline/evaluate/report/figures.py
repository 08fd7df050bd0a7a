"""The figures of a report. Each has one pair of axes and a legend below, so that it can be read on a phone.

`page.py` puts them into the report.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ...scoring.selectors import METRICS, selector_name
from ..table import STAGE_NAMES
from .data import SettingResult, chosen_at

WIDTH = 5.2  # inches; at 10 pt the text can be read on a page of 360 pixels
# Okabe and Ito's colours, which differ for colour-blind readers too, and two of Tol's.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#882255", "#999933")
MARKERS = "osD^vPX*<>"
LOOK: Any = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "neuralese"}
LONGEST = 9  # characters of a token in a cell


@dataclass(frozen=True)
class Plot:
    """A figure of the report.

    Attributes:
        name: Name of its PNG file.
        caption: One sentence about it.
    """

    name: str
    caption: str
    figure: Figure


def learning_curve(metric: str, label: str, curves: Mapping[str, Sequence[tuple[int, float]]]) -> Plot:
    """A logged metric of every stage against its optimizer steps."""
    figure, axes = _axes(3.2)
    for stage, points in curves.items():
        marker, name = "." if len(points) < 40 else None, STAGE_NAMES.get(stage, stage)
        axes.plot(*zip(*points, strict=True), label=name, marker=marker, color=_stage_colour(stage), linewidth=1.2)
    axes.set(xlabel="optimizer step of the stage", ylabel=label)
    _legend(figure, axes.get_legend_handles_labels()[0])
    return Plot(f"learning-{metric}", f"{label[0].upper()}{label[1:]}.", figure)


def pass_curves(results: Sequence[SettingResult]) -> list[Plot]:
    """pass@k against k: a plot for each model, a line for each sampling setting."""
    settings = list(dict.fromkeys(result.setting for result in results))
    plots = []
    for stage, model in {result.stage: result.model for result in results}.items():
        figure, axes = _axes(3.6)
        ours = [result for result in results if result.stage == stage]
        for result in ours:
            ks, values, low, high = (np.array(column) for column in zip(*result.points, strict=True))
            at = settings.index(result.setting)
            axes.plot(ks, values, color=_colour(at), marker=MARKERS[at % len(MARKERS)], ms=4, label=result.setting)
            axes.fill_between(ks, low, high, color=_colour(at), alpha=0.18, linewidth=0)
        if ours[0].guess:
            axes.plot(*zip(*ours[0].guess, strict=True), color="#666666", linestyle="--", label="guessing")
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks := [k for k, *_ in ours[0].points], [str(k) for k in ticks])
        axes.minorticks_off()
        axes.set(xlabel="k, samples of a problem", ylabel="pass@k", ylim=(0, 1.02), title=model)
        _legend(figure, axes.get_legend_handles_labels()[0])
        plots.append(Plot(f"pass-at-k-{stage}", f"pass@k, {model}. Bands: 95% intervals over problems.", figure))
    return plots


def frontier(results: Sequence[SettingResult]) -> Plot | None:
    """pass@1 against pass@n, a point for each model and setting; None with fewer than two points."""
    shown = [result for result in results if result.points[0][0] == 1 < result.points[-1][0]]
    if len(shown) < 2:
        return None
    settings, n = list(dict.fromkeys(result.setting for result in shown)), shown[0].points[-1][0]
    figure, axes = _axes(4.4)
    for result in shown:
        (_, x, *x_ends), (_, y, *y_ends) = result.points[0], result.points[-1]
        axes.errorbar(
            x, y, xerr=_arms(x, x_ends), yerr=_arms(y, y_ends), color=_stage_colour(result.stage),
            marker=MARKERS[settings.index(result.setting) % len(MARKERS)], markersize=7, elinewidth=0.8,
        )  # fmt: skip
    axes.set(xlabel="pass@1: how good a sample is", ylabel=f"pass@{n}: what {n} samples reach")
    axes.grid(alpha=0.25)
    stages = {result.model: result.stage for result in shown}
    handles = [Line2D([], [], color=_stage_colour(stage), linewidth=4, label=model) for model, stage in stages.items()]
    handles += [
        Line2D([], [], color="#666666", marker=MARKERS[at % len(MARKERS)], linestyle="", label=setting)
        for at, setting in enumerate(settings)
    ]
    _legend(figure, handles)
    caption = f"pass@1 against pass@{n} over noise and temperature. Colours: models; markers: how samples were drawn."
    return Plot("frontier", caption, figure)


def selector_plot(results: Sequence[SettingResult], k: int) -> Plot:
    """What each selector reaches with the same k samples, or with a search; beside any one sample and the oracle."""
    figure, axes = _axes(1.6 + 0.5 * len(results))
    metrics = ["pass@1", *METRICS.values(), "pass@k"]
    seen: dict[str, Line2D] = {}
    for row, result in enumerate(results):
        one = [(1, value, (low, high)) for at, value, low, high in result.points if at == 1]
        values = {"pass@1": one[0][1:]} if one else {}
        values |= {metric: (found.value, found.ci95) for metric, found in chosen_at(result, k).items()}
        for metric, (value, ends) in values.items():
            at = metrics.index(metric)
            axes.errorbar(
                value, row, xerr=_arms(value, ends), color=_colour(at), marker=MARKERS[at % len(MARKERS)],
                markersize=6, elinewidth=0.8,
            )  # fmt: skip
            marker, name = MARKERS[at % len(MARKERS)], selector_name(metric)
            seen.setdefault(metric, Line2D([], [], color=_colour(at), marker=marker, linestyle="", label=name))
    axes.set_yticks(range(len(results)), [f"{one.model}\n{one.setting}" for one in results], fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel="share of problems")
    axes.grid(axis="x", alpha=0.25)
    _legend(figure, [seen[metric] for metric in metrics if metric in seen])
    caption = (
        f"What selectors choose of the same {k} samples, or of those that a search found."
        if k
        else "What selectors choose of what a search found."
    )
    return Plot("selectors", caption, figure)


def trust_plots(results: Sequence[SettingResult]) -> list[Plot]:
    """How often majorities are right against how many samples agree: a plot for each model where that was measured."""
    settings = list(dict.fromkeys(result.setting for result in results))
    plots = []
    for stage, model in {one.stage: one.model for one in results if one.trust}.items():
        figure, axes = _axes(3.6)
        axes.plot([0, 1], [0, 1], color="#666666", linestyle="--", linewidth=1, label="as sure as right")
        for one in [one for one in results if one.stage == stage and one.trust]:
            sure, right, counts = zip(*one.trust, strict=True)
            at = settings.index(one.setting)
            axes.plot(sure, right, color=_colour(at), marker=MARKERS[at % len(MARKERS)], ms=5, label=one.setting)
            for x, y, count in zip(sure, right, counts, strict=True):
                axes.annotate(str(count), (x, y), textcoords="offset points", xytext=(0, 6), ha="center", fontsize=7)
        axes.set(xlabel="share of samples that agree", ylabel="share of majorities that are right", title=model)
        axes.set(xlim=(0, 1.04), ylim=(0, 1.08))
        _legend(figure, axes.get_legend_handles_labels()[0])
        caption = f"Agreement as confidence, {model}. Numbers: problems."
        plots.append(Plot(f"agreement-{stage}", caption, figure))
    return plots


def thoughts_map(readings: Sequence[Mapping[str, Any]]) -> Plot:
    """Most likely token at each latent under the logit lens; rows are problems, columns latents.

    Args:
        readings: Those of audit.json.
    """
    most = max(len(reading["lens"]) for reading in readings)
    values = np.full((len(readings), most), np.nan)
    for row, reading in enumerate(readings):
        values[row, : len(reading["probabilities"])] = reading["probabilities"]
    figure, axes = _axes(1.5 + 0.32 * len(readings), max(WIDTH, 0.6 + 0.75 * most))
    image = axes.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, reading in enumerate(readings):
        for column, (tokens, hit) in enumerate(zip(reading["lens"], reading["hits"], strict=True)):
            colour = "white" if values[row, column] > 0.55 else "black"
            word = tokens[0] if len(tokens[0]) <= LONGEST else tokens[0][: LONGEST - 1] + "…"
            axes.text(
                column, row, word or "␣", ha="center", va="center", color=colour, fontsize=9,
                fontweight="bold" if hit else "normal", parse_math=False,
            )  # fmt: skip
            if hit is False:
                box = matplotlib.patches.Rectangle((column - 0.46, row - 0.44), 0.92, 0.88, fill=False, color="#D55E00")
                axes.add_patch(box)
    axes.set_xticks(range(most), [str(latent + 1) for latent in range(most)])
    axes.set_yticks(range(len(readings)), [str(row + 1) for row in range(len(readings))])
    axes.set(xlabel="latent", ylabel="problem")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label="its probability", fraction=0.05, pad=0.02)
    caption = (
        "The most likely token at each latent under the logit lens. Bold: it begins the step that the latent stands "
        "for; framed: it does not."
    )
    return Plot("thoughts", caption, figure)


def save(plot: Plot, folder: Path, prefix: str = "") -> str:
    """Writes PREFIX + NAME.png, and returns the figure as an SVG element; both are the same for the same figure."""
    buffer = io.StringIO()
    with matplotlib.rc_context(LOOK), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # tokens may be of any script
        plain = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        plot.figure.savefig(buffer, format="svg", metadata=plain)
        plot.figure.set_layout_engine("none")  # it is laid out; once more would take as long as drawing
        plot.figure.savefig(folder / f"{prefix}{plot.name}.png", dpi=150)
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]


def _axes(height: float, width: float = WIDTH) -> tuple[Figure, Axes]:
    with matplotlib.rc_context(LOOK):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots()


def _legend(figure: Figure, handles: Sequence[Any]) -> None:
    widest = max((len(handle.get_label()) for handle in handles), default=0)
    columns = 1 if widest > 32 else 2 if widest > 14 else 3
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)


def _arms(value: float, ends: Sequence[float]) -> list[list[float]]:
    """Lengths of an error bar, at least 0: rounding may put an end on the wrong side of its value."""
    return [[max(0.0, value - ends[0])], [max(0.0, ends[1] - value)]]


def _colour(place: int) -> str:
    return COLOURS[place % len(COLOURS)]


def _stage_colour(stage: str) -> str:
    """The colour of a stage, the same in every figure."""
    return _colour(list(STAGE_NAMES).index(stage) if stage in STAGE_NAMES else -1)
