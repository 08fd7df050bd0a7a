"""`neuralese compare`: two models on the same problems, by the samples that their evaluations left."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from ...data.errors import UserError
from ..scoring.problem_samples import Sampled
from ..statistics.at_k import pass_at_k
from ..statistics.paired import Difference, paired_difference
from ..system.files import writable, write_whole
from .table import wide_console

LAST_FIRST = ("rl", "curriculum", "sft")
RESAMPLES = 10_000


class CompareError(UserError):
    """Results that cannot be compared as asked."""


@dataclass(frozen=True)
class ModelComparison:
    """One metric of two models.

    Attributes:
        setting: Names of the sample files, one where both are equal.
        metric: accuracy or pass@k.
        a: Value of the first model.
        b: Value of the second model.
        n: Problems.
    """

    setting: str
    metric: str
    k: int
    a: float
    b: float
    n: int
    difference: Difference


def compare(a: Path, b: Path, ks: Sequence[int], output: Path | None) -> None:
    """Prints, and writes if asked, how two models differ.

    Args:
        a: A run folder (its last stage), a folder of sample files, or one sample file; so is `b`.
        ks: Of pass@k; those above the number of samples are left out, unless all are.

    Raises:
        UserError: No samples there, none drawn in the same way, other problems, too few samples, or an output that
            cannot be written.
    """
    if output is not None:
        writable(output)
    files_a, files_b = sample_files(a), sample_files(b)
    if a.is_file() and b.is_file():
        pairs = [(files_a[a.stem], files_b[b.stem])]
    else:
        names = [name for name in files_a if name in files_b]
        if not names:
            raise CompareError(
                f"No samples were drawn in the same way: {', '.join(files_a)} in {a}; {', '.join(files_b)} in {b}. "
                "Evaluate both under the same settings, or name two files."
            )
        pairs = [(files_a[name], files_b[name]) for name in names]
    found = [row for pair in pairs for row in compare_files(*pair, ks)]
    _print(found, files_a, files_b)
    if output is not None:
        write_whole(output, json.dumps([asdict(row) for row in found], indent=1) + "\n")
        print(f"Results      {output}")


def sample_files(place: Path) -> dict[str, Path]:
    """Sample files by name, greedy answers first.

    Raises:
        CompareError: None there.
    """
    if place.is_file():
        return {place.stem: place}
    stages = [place / "samples" / stage for stage in LAST_FIRST]
    folder = next((stage for stage in stages if any(stage.glob("*.jsonl"))), place)
    files = {file.stem: file for file in sorted(folder.glob("*.jsonl")) if ".part" not in file.name}
    if not files:
        raise CompareError(
            f"{place} holds no samples. Name a run folder that was evaluated, a folder in its samples/, or a file."
        )
    return dict(sorted(files.items(), key=lambda item: item[0] != "greedy"))


def compare_files(a: Path, b: Path, ks: Sequence[int]) -> Iterator[ModelComparison]:
    """Accuracy, or pass@k for each k, of two files of samples.

    Raises:
        CompareError: They are of other problems or judged by another scorer, or no k fits the samples.
        SamplesError: A file that holds none, or is of another version.
    """
    (head_a, rows_a), (head_b, rows_b) = Sampled.read(a), Sampled.read(b)
    if [row.question for row in rows_a] != [row.question for row in rows_b]:
        same = len({row.question for row in rows_a} & {row.question for row in rows_b})
        raise CompareError(
            f"{a} has samples of {len(rows_a)} problems and {b} of {len(rows_b)}; {same} problems are in both, which "
            "must be the same ones in the same order. Evaluate both on the same data (data.eval, evaluate.problems)."
        )
    if head_a.get("scorer") != head_b.get("scorer"):
        raise CompareError(
            f"{a} was judged by {head_a.get('scorer')!r} and {b} by {head_b.get('scorer')!r}. Evaluate both with one "
            "evaluate.scorer."
        )
    right_a, right_b = (np.array([row.right for row in rows]) for rows in (rows_a, rows_b))
    most = min(right_a.shape[1], right_b.shape[1])
    searched = sorted({rows.shape[1] for head, rows in ((head_a, right_a), (head_b, right_b)) if _is_search(head)})
    if searched and searched != [most]:
        raise CompareError(
            f"What a search found is compared whole, and {a} has {right_a.shape[1]} samples of a problem, {b} "
            f"{right_b.shape[1]}. Compare it with as many."
        )
    fitting = [k for k in searched or ks if k <= most] if most > 1 else [1]
    if not fitting:
        raise CompareError(f"k={min(ks)} is larger than the {most} samples of {a} or {b}. Choose a smaller one.")
    setting = a.stem if a.stem == b.stem else f"{a.stem} against {b.stem}"
    for k in fitting:
        of_a, of_b = pass_at_k(right_a, k), pass_at_k(right_b, k)
        metric = "accuracy" if right_a.shape[1] == right_b.shape[1] == 1 else "pass@k"
        difference = paired_difference(of_a, of_b, RESAMPLES)
        yield ModelComparison(setting, metric, k, float(of_a.mean()), float(of_b.mean()), len(rows_a), difference)


def _is_search(head: dict[str, Any]) -> bool:
    return head.get("setting", {}).get("search") is not None


def _print(rows: Sequence[ModelComparison], a: dict[str, Path], b: dict[str, Path]) -> None:
    names = [next(iter(files.values())).parent for files in (a, b)]
    print(f"A            {names[0]}\nB            {names[1]}")
    table = Table(
        title=f"B − A on {rows[0].n} problems",
        caption="Brackets: 95% intervals over problems. p: exact McNemar test, where answers are right "
        "or wrong. One run each: differences between seeds are not in them.",
    )
    for heading in ("samples", "metric", "A", "B", "difference", "only A right", "only B right", "p"):
        table.add_column(heading)
    for row in rows:
        change = row.difference
        low, high = change.ci95
        tested = [str(change.only_a), str(change.only_b), f"{change.p:.2g}"] if change.p is not None else [""] * 3
        metric = "greedy" if row.metric == "accuracy" else f"pass@{row.k}"
        interval = f"{change.value:+.3f} [{low:+.3f}, {high:+.3f}]"
        table.add_row(row.setting, metric, f"{row.a:.3f}", f"{row.b:.3f}", interval, *tested)
    wide_console().print(table)
