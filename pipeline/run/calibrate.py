"""`neuralese calibrate`: measures accuracy at several scales of a noise and proposes one scale."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from accelerate import PartialState
from rich.console import Console
from rich.table import Table

from ...data.problem import Problem
from ..evaluate.measure import Measurement
from ..latent.noise import parse_noise
from ..model.answer_limits import check_checkpoints_fit
from ..problems.load import load_all
from ..recipe.load import load_recipe
from ..recipe.schema import Recipe, SamplingSection
from ..system.files import writable, write_whole
from ..system.processes import join_processes
from .finished_stages import find_checkpoints, run_folder
from .folder import RunError
from .results import evaluate_checkpoint
from .training_data import warn_of_other_data

SCALES = (0.03, 0.1, 0.2, 0.3, 0.5, 0.7)
KEPT = 0.9  # share of the greedy accuracy that pass@1 under noise must keep


@dataclass(frozen=True)
class Point:
    """What one scale of the noise gives.

    Attributes:
        one: pass@1.
        many: pass@k, where k is the number of samples of a problem.
    """

    scale: float
    one: float
    many: float


def propose(greedy: float, points: Sequence[Point]) -> Point | None:
    """The point with the highest pass@k among those whose pass@1 is at least 90% of the greedy accuracy.

    Of equal ones the smallest scale. None if no point qualifies.
    """
    good = [point for point in sorted(points, key=lambda point: point.scale) if point.one >= KEPT * greedy]
    return max(good, key=lambda point: point.many, default=None)


def calibrate(
    folder: Path,
    overrides: list[str],
    kind: str,
    scales: Sequence[float],
    temperature: float,
    output: Path | None,
    recipe_path: Path | None,
) -> None:
    """Measures pass@1 and pass@k of a checkpoint at several scales of a noise, and proposes one scale.

    It measures on held-out problems, so that the evaluation problems take no part in the choice.

    Args:
        folder: A checkpoint with latents, or a run folder, whose curriculum checkpoint is taken.
        kind: Of the noise, such as gaussian.
        temperature: Of the answers. At 0 samples differ by the noise only.

    Raises:
        UserError: Unknown noise, no checkpoint with latents, or a recipe that holds no problems out.
    """
    state = join_processes()
    recipe, checkpoints = find_checkpoints(folder, overrides, recipe_path)
    problems = _held_out_problems(recipe, run_folder(folder))
    specs = [f"{kind}:{scale:g}" for scale in sorted(set(scales))]
    for spec in specs:
        parse_noise(spec)
    name = next((stage for stage in ("curriculum", *checkpoints) if stage in checkpoints), "")
    target = writable(output or folder / "calibration.json")
    count = recipe.evaluate.num_samples
    sampling = [SamplingSection(noise=spec, temperature=temperature) for spec in specs]
    as_trained = dict.fromkeys(("num_latents", "loops", "latents_per_step")) | {"thought": "vectors", "monitor": ()}
    changed = {"sampling": sampling, "search": [], "k": sorted({1, count}), **as_trained}
    settings = recipe.evaluate.model_copy(update=changed)
    measured = recipe.model_copy(update={"evaluate": settings})
    check_checkpoints_fit(recipe, {name: checkpoints[name]}, problems)
    rows = evaluate_checkpoint(measured, checkpoints[name], name, problems)
    points = _points(rows, specs, count)
    if not points:
        raise RunError(f"{checkpoints[name]} has no latents for noise to fall on. Name a checkpoint of the curriculum.")
    greedy = next(row.value for row in rows if row.metric == "accuracy")
    if state.is_main_process:
        best = propose(greedy, points)
        print(f"Problems     {len(problems)} training problems that were held out")
        _print_points(kind, count, greedy, points, best)
        proposal = f"{kind}:{best.scale:g}" if best is not None else None
        write_whole(target, json.dumps({"proposal": proposal, "rows": [asdict(row) for row in rows]}, indent=1))
        print(f"Results      {target}")


def _held_out_problems(recipe: Recipe, run: Path | None) -> list[Problem]:
    """The held-out problems of a run, as its own recipe held them out, at most `evaluate.problems` of them.

    Raises:
        RunError: It held out none.
    """
    trained = recipe if run is None else load_recipe(run / "recipe.yaml").model_copy(update={"data": recipe.data})
    if trained.held_out == 0:
        raise RunError(
            "The recipe holds out no training problems, on which noise can be chosen without a look at the evaluation "
            "problems. Train with some held out: rl.eval_every=100 rl.eval_problems=256, or curriculum.eval_problems."
        )
    problems = load_all(trained)
    if run is not None and PartialState().is_main_process:
        warn_of_other_data(run, problems.record)
    return problems.held_out[: recipe.evaluate.problems]


def _points(rows: Sequence[Measurement], specs: Sequence[str], count: int) -> list[Point]:
    """A point for each noise `kind:scale` that the rows have results of."""
    found = {(row.noise, row.k): row.value for row in rows if row.metric == "pass@k"}
    return [
        Point(float(spec.partition(":")[2]), found[spec, 1], found[spec, count]) for spec in specs if (spec, 1) in found
    ]


def _print_points(kind: str, count: int, greedy: float, points: Sequence[Point], best: Point | None) -> None:
    print(f"Greedy       {greedy:.3f}")
    table = Table()
    for heading in (kind, "pass@1", f"pass@{count}"):
        table.add_column(heading)
    for point in points:
        style = "bold" if point == best else None
        table.add_row(f"{point.scale:g}", f"{point.one:.3f}", f"{point.many:.3f}", style=style)
    Console().print(table)
    if best is None:
        print(f"No scale keeps {KEPT:.0%} of the greedy accuracy at pass@1. Try smaller ones with --scale.")
    else:
        print(f"Proposed     {kind}:{best.scale:g}, the best pass@{count} that keeps {KEPT:.0%} of the greedy accuracy")
