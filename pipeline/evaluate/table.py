"""The results table on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from .evaluate import Measurement

STAGE_NAMES = {
    "sft": "text CoT",
    "curriculum": "latent, after curriculum",
    "rl": "latent, after RL",
    "pause": "pause tokens (control)",
    "no_cot": "no CoT (control)",
}


def setting_name(row: Measurement) -> str:
    """How the samples of a row were drawn, in words."""
    parts = [f"noise {row.noise}"] if row.noise else []
    return ", ".join([*parts, f"temperature {row.temperature:g}"]) if row.metric != "accuracy" else "greedy"


def results_columns(rows: Sequence[Measurement]) -> list[tuple[str, int]]:
    """The (metric, k) pairs that occur, accuracy first."""
    order = {"accuracy": 0, "pass@k": 1, "maj@k": 2}
    return sorted({(row.metric, row.k) for row in rows}, key=lambda column: (order[column[0]], column[1]))


def metric_name(metric: str, k: int) -> str:
    return "greedy accuracy" if metric == "accuracy" else metric.replace("@k", f"@{k}")


def table_rows(rows: Sequence[Measurement], seconds: Mapping[str, float]) -> list[list[str]]:
    """One row for each checkpoint and sampling setting; cells hold value and 95% interval."""
    columns = results_columns(rows)
    lines = []
    for stage in dict.fromkeys(row.stage for row in rows):
        ours = [row for row in rows if row.stage == stage]
        greedy = next(row for row in ours if row.metric == "accuracy")
        for setting in dict.fromkeys(setting_name(row) for row in ours if row.metric != "accuracy"):
            cells = {(row.metric, row.k): row for row in ours if setting_name(row) == setting}
            cells["accuracy", 1] = greedy
            shown = [_cell(cells.get(column)) for column in columns]
            spent = f"{seconds[stage]:.0f}" if stage in seconds else ""
            lines.append([STAGE_NAMES.get(stage, stage), setting, *shown, spent])
    return lines


def _cell(row: Measurement | None) -> str:
    return "" if row is None else f"{row.value:.3f} [{row.ci95[0]:.3f}, {row.ci95[1]:.3f}]"


def print_results(rows: Sequence[Measurement], seconds: Mapping[str, float]) -> None:
    """Prints the results; a checkpoint's name, greedy accuracy and seconds stand in its first line."""
    table = Table(title=f"{rows[0].n} evaluation problems, seed {rows[0].seed}; brackets: bootstrap 95% intervals")
    names = [metric_name(*column) for column in results_columns(rows)]
    for heading in ("model", "samples", *names, "train s"):
        table.add_column(heading)
    previous = ""
    for line in table_rows(rows, seconds):
        first = line[0] != previous
        previous = line[0]
        table.add_row(*(line if first else ["", line[1], "", *line[3:-1], ""]), end_section=False)
    console = Console()
    # A terminal cuts cells of a table that is too wide; a file or a pipe gets it whole.
    Console(width=None if console.is_terminal else 160).print(table)
    if "evaluate" in seconds:
        console.print(f"Evaluation took {seconds['evaluate']:.0f} s.")
