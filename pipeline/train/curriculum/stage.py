"""The stage `curriculum` and its controls: visits of an arm's levels, in the order that `order.py` gives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState

from ...model.load import load_reasoner
from ...recipe.schema import Recipe
from ...system.files import write_whole
from ...system.processes import on_main
from ..context import Context
from ..hand_over import REPORT, is_done
from .arm_plan import ArmPlan, plan_arm
from .arms import LATENT, most_steps
from .optimizer_state import OPTIMIZER
from .order import best_visit, is_stopped, next_level
from .reports import read_report
from .visit import Visit, train_visit


def train_curriculum(context: Context, base: str | Path, folder: Path, arm: str = LATENT) -> None:
    """Trains the levels of an arm and leaves `folder/final` and `folder/report.json`. Finished visits are kept.

    Args:
        base: Weights that the first level starts from.
    """
    plan = plan_arm(context.recipe, arm, most_steps(context.train), len(context.train))
    _rename_old_levels(folder)
    reports: list[dict[str, Any]] = []
    visits: list[Visit] = []
    while (index := next_level(reports, len(plan.levels), plan.rules)) is not None:
        visit = _next_visit(plan, index, base, folder, visits, reports)
        if not is_done(visit.folder):
            train_visit(context, plan, visit)
        visits.append(visit)
        reports.append(read_report(visit.folder / "final" / REPORT))
    _finish(context.recipe, base, folder, visits, reports, is_stopped(reports, plan.rules))


def _next_visit(
    plan: ArmPlan,
    index: int,
    base: str | Path,
    folder: Path,
    visits: Sequence[Visit],
    reports: Sequence[dict[str, Any]],
) -> Visit:
    """The visit of level `index` that follows `visits`, whose reports are `reports`."""
    times = sum(report["level"] == index for report in reports)
    name = f"level-{index}" if times == 0 else f"level-{index}-again-{times}"
    carried = visits[-1].folder / OPTIMIZER if visits and not plan.section.reset_optimizer else None
    return Visit(
        level=plan.levels[index - 1],
        folder=folder / name,
        base=visits[-1].folder / "final" if visits else base,
        steps_before=sum(report["steps"] for report in reports),
        max_steps=plan.limits[index - 1],
        optimizer_of=carried,
    )


def _finish(
    recipe: Recipe,
    base: str | Path,
    folder: Path,
    visits: Sequence[Visit],
    reports: Sequence[dict[str, Any]],
    stopped: bool,
) -> None:
    """Writes the report of the whole and links `final` to the last visit, or to the best one of a stopped curriculum.

    A curriculum that was stopped before any level was promoted gets the weights it started from.
    """
    state = PartialState()
    best = best_visit(reports) if stopped else len(visits) - 1
    if state.is_main_process and not is_done(folder):
        for visit in visits:
            (visit.folder / OPTIMIZER).unlink(missing_ok=True)
        kept = visits[best].folder.name if best is not None else None
        write_whole(folder / REPORT, json.dumps({"stopped": stopped, "kept": kept, "visits": reports}, indent=1))
        if kept is None:
            started = load_reasoner(base, **recipe.model.loading_in_full, **recipe.data.text_options)
            started.save_pretrained(folder / "final.partial")
            (folder / "final.partial").rename(folder / "final")
        else:
            link = folder / "final"
            link.unlink(missing_ok=True)  # it may lead to a visit whose folder was deleted and trained anew
            link.symlink_to(Path(kept) / "final")
    state.wait_for_everyone()


def _rename_old_levels(folder: Path) -> None:
    """Renames the folders of a curriculum begun by version 0.1, `stage-1` and so on, to `level-1` and so on."""

    def rename() -> None:
        for old in folder.glob("stage-*"):
            old.rename(folder / old.name.replace("stage", "level", 1))

    on_main(rename)
