"""A cell takes over the finished stages of another cell, so that several arms begin at one checkpoint."""

from __future__ import annotations

import json
import shutil
from itertools import takewhile
from typing import Any

from sweep_cells import changed_keys, read_row
from sweep_file import Cell

from neuralese.pipeline.recipe.schema import Recipe
from neuralese.pipeline.system.files import write_whole


def take_over(cell: Cell) -> list[str]:
    """Copies the finished stages of `cell.after` into the folder of a cell; returns the commits they were made at.

    Copies only stages that both recipes train alike. Without the folder of the other run it copies none, and the cell
    trains them itself.
    """
    # Imported here: these load torch, which --list does not need.
    from neuralese.pipeline.evaluate.measure import read_results, write_results
    from neuralese.pipeline.system.integrity import read_seconds
    from neuralese.pipeline.train.hand_over import is_done

    source = cell.after
    row = read_row(source) if source is not None else None
    if source is None or row is None or changed_keys(row, source.recipe):
        return []
    folder, partial = source.recipe.folder, cell.beside(".partial")
    stages = [name for name in common_stages(cell, source) if is_done(folder / name)]
    if not stages:
        return []
    shutil.rmtree(partial, ignore_errors=True)
    for name in stages:
        shutil.copytree(folder / name, partial / name, symlinks=True)
    seconds = read_seconds(folder)
    write_whole(partial / "seconds.json", json.dumps({name: seconds[name] for name in stages if name in seconds}))
    if cell.recipe.evaluate == source.recipe.evaluate:
        rows = read_results(folder / "results.json")
        write_results(partial / "results.json", [row for row in rows if row.stage in stages])
    write_whole(partial / "recipe.yaml", cell.recipe.to_yaml())
    partial.rename(cell.recipe.folder)
    return row.commit.split(", ")


def common_stages(cell: Cell, source: Cell) -> list[str]:
    """The first stages of two recipes, up to the one that they train differently."""
    ours, theirs = depends_on(cell.recipe), depends_on(source.recipe)
    return [stage for stage, _ in takewhile(lambda stage: theirs[stage[0]] == stage[1], ours.items())]


def depends_on(recipe: Recipe) -> dict[str, Any]:
    """For each stage, in the order of training, what its weights depend on besides the stage before."""
    return {
        "base": (recipe.seed, recipe.plugins, recipe.model, recipe.data),
        "sft": (recipe.sft, recipe.held_out),
        "curriculum": (recipe.latent, recipe.curriculum, recipe.evaluate.scorer, recipe.evaluate.max_new_tokens),
    }
