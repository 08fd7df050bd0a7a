"""`neuralese eval`: measures the checkpoints of a run, or one checkpoint."""

from __future__ import annotations

from .terminal import Output, Overrides, RecipeFile, RunFolder, quiet


def evaluate(
    folder: RunFolder,
    overrides: Overrides = None,
    output: Output = None,
    recipe: RecipeFile = None,
) -> None:
    """Measure the checkpoints of a run, or one checkpoint. Keys such as evaluate.num_samples=64 change how."""
    quiet()
    from ..run.evaluate import evaluate_folder
    from ..system.processes import leave_processes

    evaluate_folder(folder, overrides or [], output, recipe)
    leave_processes()
