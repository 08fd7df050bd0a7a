"""Draws docs/images/latents.svg: how text steps become latents. python scripts/draw_latents.py [FILE]"""

from __future__ import annotations

import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

INK, PALE, TEXT, LATENT, ANSWER = "#1f2933", "#6b7785", "#e4e9ef", "#f6c667", "#a8d5ba"
QUESTION = "17 + 5 * 3 − 8 ="
ROWS = {
    "text (SFT)": ["22", "4", "27"],
    "level 1": ["z₁", "4", "27"],
    "level 2": ["z₁", "z₂", "27"],
    "level 3": ["z₁", "z₂", "z₃"],
}


def box(axes: Axes, x: float, y: float, width: float, text: str, color: str, height: float = 0.6) -> None:
    """A rounded box with its lower left corner at (x, y)."""
    axes.add_patch(
        FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=0.12", fc=color, ec=INK, lw=0.8)
    )
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", color=INK, fontsize=10)


def arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], bend: str = "arc3", **style: object
) -> None:
    axes.add_patch(
        FancyArrowPatch(
            start, end, connectionstyle=bend, arrowstyle="-|>", mutation_scale=9, lw=1.1, color=INK, **style
        )
    )


def draw_levels(axes: Axes, top: float) -> None:
    """One row a level: the curriculum replaces text steps by latents, from the first step on."""
    for row, (label, thought) in enumerate(ROWS.items()):
        y = top - 0.85 * row
        axes.text(0.2, y + 0.3, label, va="center", color=INK, fontsize=10, fontweight="bold")
        box(axes, 2.0, y, 3.0, QUESTION, TEXT)
        for place, text in enumerate(thought):
            box(axes, 5.2 + 1.1 * place, y, 0.9, text, LATENT if text.startswith("z") else TEXT)
        box(axes, 8.5, y, 1.3, "### 27", ANSWER)


def draw_passes(axes: Axes) -> None:
    """One column a position: the state over a position, with noise on it, is the input of the next one."""
    axes.text(0.2, 2.6, "how latents\nare made", va="center", color=INK, fontsize=10, fontweight="bold")
    box(axes, 2.0, 1.35, 7.8, "", "#ffffff", height=0.75)
    axes.text(2.15, 1.72, "language model", va="center", color=INK, fontsize=10)
    inputs = [("… 8 =", 3.9, 1.1), ("z₁", 5.2, 0.9), ("z₂", 6.3, 0.9), ("z₃", 7.4, 0.9), ("###", 8.5, 1.3)]
    for text, x, width in inputs:
        box(axes, x, 0.35, width, text, LATENT if text.startswith("z") else TEXT, height=0.55)
        arrow(axes, (x + width / 2, 0.9), (x + width / 2, 1.35))
    centers = [x + width / 2 for _, x, width in inputs]
    for place in range(3):
        x = centers[place]
        middle = (x + centers[place + 1]) / 2
        arrow(axes, (x, 2.1), (x, 2.62))
        axes.text(x, 2.8, f"h{'₀₁₂'[place]}", ha="center", va="center", color=INK, fontsize=10)
        # From the state on top, down between two columns, to the input of the next one.
        line = [(x + 0.2, 2.8), (middle, 2.8), (middle, 0.62), (centers[place + 1] - 0.45, 0.62)]
        axes.plot(*zip(*line[:3], strict=True), color="#b7791f", lw=1.3, zorder=5)
        axes.add_patch(FancyArrowPatch(line[2], line[3], arrowstyle="-|>", mutation_scale=9, lw=1.3, color="#b7791f",
                                       shrinkA=0, shrinkB=0, zorder=5))  # fmt: skip
    arrow(axes, (centers[4], 2.1), (centers[4], 2.62))
    axes.text(centers[4], 2.8, "27", ha="center", va="center", color=INK, fontsize=10)
    note = "orange: a hidden state,\nmade as large as an\nembedding, is the\nnext input; in RL\nnoise is added"
    axes.text(0.2, 1.2, note, va="center", color=PALE, fontsize=8)


def main(file: str) -> None:
    plt.rcParams.update({"svg.hashsalt": "latents", "font.family": "DejaVu Sans"})
    figure = plt.figure(figsize=(8, 5.6))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 10), ylim=(0, 7))
    axes.axis("off")
    # A card of its own: readable on a light page and on a dark one.
    axes.add_patch(
        FancyBboxPatch((0.05, 0.05), 9.9, 6.9, boxstyle="round,pad=0,rounding_size=0.2", fc="#fbfcfd", ec="#c9d1d9")
    )
    axes.text(
        0.2,
        6.65,
        "17 + 5 = 22,   22 * 3 = 4,   4 − 8 = 27   (left to right, modulo 31)",
        va="center",
        color=PALE,
        fontsize=9,
    )
    draw_levels(axes, 5.75)
    axes.plot([0.2, 9.8], [3.05, 3.05], color="#c9d1d9", lw=0.8)
    draw_passes(axes)
    figure.savefig(file, transparent=True, metadata={"Date": None} if file.endswith("svg") else None)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "docs/images/latents.svg")
