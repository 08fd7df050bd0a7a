"""A cell takes over the finished stages of another cell, so that several arms begin at one checkpoint."""

from __future__ import annotations

from itertools import takewhile

from sweep_cells import changed_keys, read_row
from sweep_file import Cell


def take_over(cell: Cell) -> list[str]:
    """Copies the finished stages of `cell.after` into the folder of a cell; returns the commits they were made at.

    Copies only stages that both recipes train alike. Without the folder of the other run it copies none, and the cell
    trains them itself.
    """
    # Imported here: these load torch, which --list does not need.
    from neuralese.pipeline.run.other_run import copy_stages
    from neuralese.pipeline.train.hand_over import is_done

    source = cell.after
    row = read_row(source) if source is not None else None
    if source is None or row is None or changed_keys(row, source.recipe):
        return []
    folder = source.recipe.folder
    stages = [name for name in common_stages(cell, source) if is_done(folder / name)]
    if not stages:
        return []
    copy_stages(source.recipe, cell.recipe, stages)
    return row.commit.split(", ")


def common_stages(cell: Cell, source: Cell) -> list[str]:
    """The first stages of two recipes, up to the one that they train differently."""
    from neuralese.pipeline.run.other_run import SECTIONS, trained_apart

    return list(takewhile(lambda stage: not trained_apart(source.recipe, cell.recipe, stage), SECTIONS))
