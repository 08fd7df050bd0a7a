"""A cell takes over the finished stages of another cell, so that several arms begin at one checkpoint."""

from __future__ import annotations

from itertools import takewhile

from sweep_cells import changed_keys, read_row
from sweep_file import Cell


def take_over(cell: Cell) -> list[str]:
    """Copies the finished stages of `cell.after` into the folder of a cell; returns the commits they were made at.

    Copies only stages that both recipes train alike. It prints which, and what ends them; the cell trains the rest.
    """
    # Imported here: these load torch, which --list does not need.
    from neuralese.pipeline.run.other_run import SECTIONS, copy_stages, trained_apart
    from neuralese.pipeline.train.hand_over import is_done

    source = cell.after
    if source is None:
        return []
    row, folder = read_row(source), source.recipe.folder
    changed = [] if row is None else changed_keys(row, source.recipe)
    alike = [] if row is None or changed else common_stages(cell, source)
    stages = [name for name in alike if is_done(folder / name)]
    if changed:
        why = f"its recipe has changed since: {', '.join(changed)}"
    elif row is None or not folder.is_dir():
        why = f"{folder} is not here, or is not finished"
    else:
        ends = next((name for name in SECTIONS if name not in alike), None)
        why = "; ".join(trained_apart(source.recipe, cell.recipe, ends)) if ends else ""
    taken = ", ".join(stages) or "no stage"
    print(f"{cell.recipe.name} begins with {taken} of {source.recipe.name}" + f" ({why})" * bool(why), flush=True)
    if row is None or not stages:
        return []
    copy_stages(source.recipe, cell.recipe, stages)
    return row.commit.split(", ")


def common_stages(cell: Cell, source: Cell) -> list[str]:
    """The first stages of two recipes, up to the one that they train differently."""
    from neuralese.pipeline.run.other_run import SECTIONS, trained_apart

    return list(takewhile(lambda stage: not trained_apart(source.recipe, cell.recipe, stage), SECTIONS))
