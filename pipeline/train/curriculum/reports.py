"""Reports of a curriculum: `final/report.json` of each visit, and `report.json` of the whole with all visits.

A visit's report holds `level`, `steps` (optimizer steps), `accuracy`, `target` (the threshold or null), `promoted`, and
`earlier` (the accuracy on the level below, or null). That of the whole holds `stopped`, `kept` (the folder of the visit
whose weights are `final`, or null) and `visits`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ....data.errors import reason
from ..hand_over import REPORT
from ..resume import CheckpointError


def read_report(file: Path) -> dict[str, Any]:
    """The report of a curriculum or of a visit.

    Raises:
        CheckpointError: It is not whole.
    """
    try:
        return _with_new_names(json.loads(file.read_bytes()))
    except ValueError as error:
        raise CheckpointError(
            f"{file} is whole no more ({reason(error)}). Nothing was changed. Delete it and {file.parent / 'final'}, "
            "and --resume writes both anew; the levels are kept."
        ) from error


def _with_new_names(report: dict[str, Any]) -> dict[str, Any]:
    """A report with the keys of this version. Up to version 0.1 `level` was called `stage`."""
    named = {"level" if key == "stage" else key: value for key, value in report.items()}
    if "visits" in named:
        named["visits"] = [_with_new_names(visit) for visit in named["visits"]]
    return named


def stopped_summary(folder: Path) -> dict[str, Any] | None:
    """The report of a curriculum that stopped below a threshold. None for one that did not."""
    file = folder / REPORT
    summary = read_report(file) if file.is_file() else {"stopped": False}
    return summary if summary["stopped"] else None


def why_stopped(summary: dict[str, Any]) -> str:
    """The message to the user about a stopped curriculum: which level, its accuracy, what was kept, what to change."""
    last, kept = summary["visits"][-1], summary["kept"]
    return (
        f"The curriculum was stopped: level {last['level']} ended after {last['steps']} optimizer steps with held-out "
        f"accuracy {last['accuracy']:.3f}, below curriculum.promote_at={last['target']}. Kept: "
        f"{'the weights of ' + kept if kept else 'the weights it started from, since no level was promoted'}. Under "
        "another name, give the levels more optimizer steps, a lower threshold or a supervision, or set "
        "curriculum.at_limit=continue to go on regardless."
    )
