"""Finished stages that a cell takes over from another one: arms begin at the same checkpoint, trained once."""

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
    """Fills a cell's folder with the finished stages of the cell it comes after; returns the commits they were made at.

    Only stages that both recipes train alike, and only while the other run is at hand: else the cell trains them.
    """
    # They load torch, which --list can do without.
    from neuralese.pipeline.evaluate.measure import read_results, write_results
    from neuralese.pipeline.system.whole import read_seconds
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
    """The stages up to the first that two recipes train differently."""
    ours, theirs = depends_on(cell.recipe), depends_on(source.recipe)
    return [stage for stage, _ in takewhile(lambda stage: theirs[stage[0]] == stage[1], ours.items())]


def depends_on(recipe: Recipe) -> dict[str, Any]:
    """Stages in the order they are trained in, and what the weights of each depend on besides the stage before."""
    return {
        "base": (recipe.seed, recipe.plugins, recipe.model, recipe.data, recipe.latent),
        "sft": (recipe.sft, recipe.held_out),
        "curriculum": (recipe.curriculum, recipe.evaluate.scorer, recipe.evaluate.max_new_tokens),
    }
