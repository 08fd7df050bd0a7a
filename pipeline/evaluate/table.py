"""The results table on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from ..scoring.selectors import AGREEMENT, METRICS, selector_name
from .measure import Measurement

STAGE_NAMES = {
    "sft": "text CoT",
    "curriculum": "latent after curriculum",
    "rl": "latent after RL",
    "text_cot": "control: text CoT, trained on",
    "no_cot": "control: no CoT",
    "pause": "control: pause tokens",
    "pause_multi": "control: pause tokens, multi-pass",
    "no_curriculum": "control: no curriculum",
    "more_supervised": "control: supervised as long as RL",
}


def stage_name(row: Measurement) -> str:
    """The checkpoint of a row, in words."""
    if row.num_latents is not None:
        return STAGE_NAMES.get(row.stage, row.stage)
    if row.mode == "hybrid":
        return f"{STAGE_NAMES.get(row.stage, row.stage)}, stopped: the last steps are text"
    return "text CoT after RL" if (row.stage, row.mode) == ("rl", "text") else STAGE_NAMES.get(row.stage, row.stage)


def setting_name(row: Measurement) -> str:
    """The setting of a row, in words."""
    count = row.num_latents
    parts = [] if count is None else [f"{count} latent{'s' * (count != 1)}" if count else "in text"]
    parts += [] if row.loops is None else [f"{row.loops} loop{'s' * (row.loops != 1)}"]
    parts += [] if row.thought is None else ["thought as text"]
    if row.metric == "accuracy":
        return ", ".join(["greedy", *parts])
    shared = [f"{row.answers_per_thought} answers a thought"] if row.answers_per_thought > 1 else []
    drawn = [part for part in (row.search, row.noise) if part]
    return ", ".join([*drawn, f"T {row.temperature:g}", *shared, *parts])


def results_columns(rows: Sequence[Measurement]) -> list[tuple[str, int]]:
    """The (metric, k) pairs that occur outside searches, accuracy first."""
    rows = [row for row in rows if row.search is None]
    order = ["accuracy", "pass@k", *METRICS.values(), AGREEMENT]
    return sorted({(row.metric, row.k) for row in rows}, key=lambda column: (order.index(column[0]), column[1]))


def metric_name(metric: str, k: int) -> str:
    return "greedy" if metric == "accuracy" else metric.replace("@k", f"@{k}")


def table_rows(rows: Sequence[Measurement], seconds: Mapping[str, float]) -> list[list[str]]:
    """One row for each checkpoint and sampling setting; cells hold value and 95% interval.

    The last row is for guesses drawn from the distribution of the right answers. Searches have a table of their own
    (`chosen_rows`), since each has its own number of samples.
    """
    rows = [row for row in rows if row.search is None]
    columns = results_columns(rows)
    lines = []
    for stage in dict.fromkeys(row.stage for row in rows):
        ours = [row for row in rows if row.stage == stage]
        name = stage_name(ours[0])
        greedy = next(row for row in ours if row.metric == "accuracy")
        settings = dict.fromkeys(setting_name(row) for row in ours if row.metric != "accuracy")
        for setting in settings or [setting_name(greedy)]:
            cells = {(row.metric, row.k): row for row in ours if setting_name(row) == setting}
            cells["accuracy", 1] = greedy
            shown = [_cell(cells.get(column)) for column in columns]
            spent = f"{seconds[stage]:.0f}" if stage in seconds else ""
            lines.append([name, setting, *shown, spent])
    floors = {(row.metric, row.k): row.guess for row in rows}
    if any(floor is not None for floor in floors.values()):
        lines.append(["guessing", "", *("" if (floor := floors[c]) is None else f"{floor:.3f}" for c in columns), ""])
    return lines


def _cell(row: Measurement | None) -> str:
    return "" if row is None else _value(row.value, row.ci95)


def _value(value: float, ci95: tuple[float, float]) -> str:
    return f"{value:.3f} ({ci95[0]:.2f}-{ci95[1]:.2f})"


def chosen_rows(rows: Sequence[Measurement]) -> tuple[list[str], list[list[str]]]:
    """Headings and lines: what selectors reach with all samples of each setting, and the cost for a problem."""
    settings: dict[tuple[str, str], list[Measurement]] = {}
    for row in rows:
        if row.metric in ("pass@k", *METRICS.values()):
            settings.setdefault((stage_name(row), setting_name(row)), []).append(row)
    metrics = [metric for metric in (*METRICS.values(), "pass@k") if any(row.metric == metric for row in rows)]
    lines = []
    for key, ours in settings.items():
        k = max(row.k for row in ours)
        found = {row.metric: row for row in ours if row.k == k}
        shares = [_cell(found.get(metric)) for metric in metrics]
        lines.append([*key, str(k), *shares, *costs(list(found.values()))])
    return ["model", "samples", "k", *map(selector_name, metrics), "latents", "tokens", "ms"], lines


def costs(rows: Sequence[Measurement]) -> list[str]:
    """Latents, tokens and milliseconds of k samples of a problem, including what the selectors of `rows` cost.

    The time is a share of the time of all samples.
    """
    row = max(rows, key=lambda row: row.seconds or 0.0)
    if row.latents is None or row.tokens is None or row.num_samples is None:
        return ["", "", ""]
    spent = "" if row.seconds is None else f"{1000 * row.seconds * row.k / row.num_samples:.1f}"
    return [f"{row.latents:.1f}", f"{row.tokens:.1f}", spent]


def monitor_rows(rows: Sequence[Measurement]) -> tuple[list[str], list[list[str]]]:
    """Headings and lines: how well each score of what is read in thoughts tells right answers from wrong ones."""
    lines = []
    for row in rows:
        for name, found in (row.monitor or {}).items():
            told = "" if found.auroc is None or found.ci95 is None else _value(found.auroc, found.ci95)
            mean = ["" if one is None else f"{one:.3f}" for one in (found.right, found.wrong)]
            lines.append([stage_name(row), setting_name(row), name, str(found.n), *mean, told])
    return ["model", "thought", "score", "n", "of right answers", "of wrong ones", "AUROC"], lines


MONITOR_NOTE = (
    "Scores of what the head reads in the thoughts of greedy answers. AUROC: the chance that a wrong answer looks "
    "worse than a right one. distance needs the problem's own steps."
)


def wide_console() -> Console:
    """A console for tables. A file or a pipe has no width, so tables are not cut there."""
    console = Console()
    return console if console.is_terminal else Console(width=200)


def print_results(rows: Sequence[Measurement], seconds: Mapping[str, float]) -> None:
    """Prints the results. The first line of a checkpoint has its name, greedy accuracy and seconds."""
    console = wide_console()
    if not rows:  # a curriculum that was stopped at once, without an sft before it
        console.print("Nothing was measured: no stage left a model of its own.")
        return
    table = Table(
        title="Accuracy",
        caption=f"{rows[0].n} problems, seed {rows[0].seed}. In brackets: 95% intervals. T: temperature.",
        box=box.SIMPLE_HEAD,
    )
    names = [metric_name(*column) for column in results_columns(rows)]
    for heading in ("model", "samples", *names, "train s"):
        # Narrow terminals break a cell between value and interval, and nowhere else.
        table.add_column(
            heading, min_width=5 if heading in names else None, no_wrap=heading == "samples", overflow="fold"
        )
    previous = ""
    for line in table_rows(rows, seconds):
        first = line[0] != previous
        previous = line[0]
        table.add_row(*(line if first else ["", line[1], "", *line[3:-1], ""]))
    console.print(table)
    if any(row.search or row.answers_per_thought > 1 for row in rows):
        caption = (
            "Of the k samples of a problem: what selectors reach, whether one is right (oracle), and the cost. Latents "
            "include those that a search gave up; answers of one thought share its latents."
        )
        _print_grid(console, "Choosing and searching", caption, *chosen_rows(rows))
    if any(row.monitor for row in rows):
        _print_grid(console, "Thoughts that are read", MONITOR_NOTE, *monitor_rows(rows))
    if "evaluate" in seconds:
        console.print(f"Evaluation took {seconds['evaluate']:.0f} s.")


def _print_grid(
    console: Console, title: str, caption: str, headings: Sequence[str], lines: Sequence[Sequence[str]]
) -> None:
    table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD)
    for heading in headings:
        table.add_column(heading, no_wrap=heading == "samples", overflow="fold")
    for line in lines:
        table.add_row(*line)
    console.print(table)
