"""`neuralese eval` and `neuralese calibrate`: measure what a run left behind."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from accelerate import PartialState
from rich.console import Console
from rich.table import Table

from ..data.problem import Problem
from .activity import NOW, doing
from .evaluate.evaluate import Measurement, write_results
from .evaluate.latent_reward_training import draw_thoughts, held_out, kept_thoughts, train_latent_reward
from .evaluate.report import write_report
from .evaluate.sample_files import digest
from .evaluate.samples import Sampled
from .evaluate.settings import Setting
from .evaluate.table import print_results
from .evaluate_sections import SamplingSection
from .files import check_writable, writable, write_whole
from .latent.noise import parse_noise
from .loading import load_reasoner
from .lock import hold_for_all
from .plugins import load_plugins
from .problems import draw_training, fingerprint, load_all, load_evaluation
from .recipe import load_recipe
from .run import evaluate_checkpoint, join_processes, trained_stages
from .run_folder import RunError, warn_of_other_data
from .sections import Recipe
from .train.room import check_checkpoints_fit
from .whole import read_seconds

logger = logging.getLogger(__name__)

SCALES = (0.03, 0.1, 0.2, 0.3, 0.5, 0.7)
KEPT = 0.9  # share of the greedy accuracy that a sample under noise must keep


def evaluate_folder(folder: Path, overrides: list[str], output: Path | None, recipe_path: Path | None) -> None:
    """Measures all finished stages of a run folder, or one checkpoint, and prints and writes the results.

    Raises:
        RunError: No run or checkpoint there, or no recipe that says what to measure on.
        LockedError: Another evaluation writes the same results.
    """
    state = join_processes()
    recipe, checkpoints = find_checkpoints(folder, overrides, recipe_path)
    target = writable(output or folder / "eval.json")
    problems = load_evaluation(recipe)
    check_checkpoints_fit(recipe, checkpoints, problems)
    rows: list[Measurement] = []
    with hold_for_all(target.with_name(f"{target.stem}.lock"), str(target), "name another file with --output"):
        for name, checkpoint in checkpoints.items():
            rows += evaluate_checkpoint(recipe, checkpoint, name, problems, target.with_name(f"{target.stem}-samples"))
    if state.is_main_process:
        write_results(target, rows)
        seconds = read_seconds(folder) if (folder / "recipe.yaml").is_file() else {}
        seconds.pop("evaluate", None)  # that of the run's own evaluation, not of this one
        print_results(rows, seconds)
        print(f"Results      {target}")
        print(f"Samples      {target.with_name(f'{target.stem}-samples')}")
        if target == folder / "eval.json" and (folder / "results.json").is_file():
            print(f"Report       {write_report(folder)}")


def find_checkpoints(folder: Path, overrides: list[str], recipe_path: Path | None) -> tuple[Recipe, dict[str, Path]]:
    """The recipe that a folder was trained by, and its checkpoints by stage: those of a run, or the folder itself.

    Raises:
        RunError: No run or checkpoint there, or no recipe that says what to measure on.
    """
    if not folder.is_dir():
        raise RunError(f"There is no folder {folder}. Name a run folder or a checkpoint.")
    if recipe_path is None:
        run = run_folder(folder)
        if run is None:
            raise RunError(
                f"{folder} lies in no run folder. Give the recipe that says what to measure on with --recipe."
            )
        recipe_path = run / "recipe.yaml"
    recipe = load_recipe(recipe_path, overrides)
    load_plugins(recipe.plugins)
    if (folder / "recipe.yaml").is_file():
        checkpoints = trained_stages(recipe, folder)
    elif (folder / "config.json").is_file():
        checkpoints = {_stage_name(folder): folder}
    else:
        checkpoints = {}
    if not checkpoints:
        raise RunError(f"{folder} holds no finished stage and no checkpoint.")
    NOW.folder = run_folder(folder)
    return recipe, checkpoints


def run_folder(folder: Path) -> Path | None:
    """The run that a folder is, or that it is a checkpoint of; None for any other folder."""
    parents = (folder, *folder.resolve().parents[:3])  # run/stage/final, or run/stage/part/final
    return next((parent for parent in parents if (parent / "recipe.yaml").is_file()), None)


def _stage_name(checkpoint: Path) -> str:
    """The training stage a checkpoint comes from: the name of its stage folder, or what its latent section says."""
    if checkpoint.resolve().name == "final":
        return checkpoint.parent.name
    section = json.loads((checkpoint / "config.json").read_text()).get("latent") or {}
    return "curriculum" if section.get("num_latents") else "sft"


@dataclass(frozen=True)
class Point:
    """What a scale of noise gives.

    Attributes:
        scale: Of the noise.
        one: pass@1 of noisy samples.
        many: pass@k, k the number of samples.
    """

    scale: float
    one: float
    many: float


def propose(greedy: float, points: Sequence[Point]) -> Point | None:
    """The scale with the highest pass@k among those whose pass@1 keeps 90% of the greedy accuracy, the smaller of two
    equal ones; None where there is none."""
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
    """Measures pass@1 and pass@k of a checkpoint over scales of a noise, and proposes one.

    On training problems that were held out, so that nothing is chosen on what the model is measured by in the end.

    Args:
        folder: A checkpoint with latents, or a run, of which the curriculum's is taken.
        temperature: Of the answers; 0 leaves the noise alone to make samples differ.

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
    changed = {"sampling": sampling, "search": [], "num_latents": None, "k": sorted({1, count})}
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
        write_whole(target, json.dumps({"proposal": proposal, "rows": [row.__dict__ for row in rows]}, indent=1))
        print(f"Results      {target}")


def _held_out_problems(recipe: Recipe, run: Path | None) -> list[Problem]:
    """Training problems that a run has held out, whatever is asked for now; no more than a model is measured on.

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
        warn_of_other_data(run, fingerprint(problems.train))
    return problems.held_out[: recipe.evaluate.problems]


def train_reward_model(
    folder: Path,
    overrides: list[str],
    setting: Setting,
    count: int,
    epochs: int,
    learning_rate: float,
    output: Path | None,
    recipe_path: Path | None,
    samples: Path | None = None,
) -> None:
    """Trains a latent reward model for the last checkpoint with latents, on training problems, and writes it.

    Args:
        setting: How its thoughts are drawn.
        count: Problems.
        samples: A file of samples of this checkpoint to learn from, already scored, in place of drawing new ones.

    Raises:
        UserError: No checkpoint with latents, samples of another one, or nothing to learn from.
    """
    join_processes()
    recipe, checkpoints = find_checkpoints(folder, overrides, recipe_path)
    parse_noise(setting.noise)
    name = next((stage for stage in ("rl", "curriculum", *checkpoints) if stage in checkpoints), "")
    target = output or (folder if (folder / "recipe.yaml").is_file() else folder.parent) / "latent_reward"
    if target.exists():
        raise RunError(f"{target} exists. Move it away, or name another folder with --output.")
    check_writable(target, "--output")
    model = recipe.model
    reasoner = load_reasoner(checkpoints[name], trust_remote_code=model.trust_remote_code, dtype=model.dtype)
    reasoner.model.to(PartialState().device)
    if samples is None:
        problems = draw_training(load_all(recipe).train, count, recipe.seed)
        check_checkpoints_fit(recipe, {name: checkpoints[name]}, problems)
        thoughts = draw_thoughts(reasoner, problems, setting, recipe.evaluate, recipe.seed)
    else:
        drawn, rows = _read_own_samples(samples, checkpoints[name])
        thoughts = kept_thoughts(reasoner, rows, drawn, recipe.evaluate)
        _warn_of_evaluation(rows, recipe)
    with doing("training the latent reward model"):
        head, report = train_latent_reward(thoughts, epochs, learning_rate, recipe.seed)
    head.config.checkpoint = digest(checkpoints[name])
    head.save_pretrained(target)
    write_whole(target / "report.json", json.dumps(asdict(report)))
    held = held_out(len(thoughts.right))
    print(f"Checkpoint   {checkpoints[name]}")
    print(f"Learned from {report.mixed} problems with right and wrong thoughts, epoch {report.epoch} kept")
    print(
        f"Held out     {held} problems that chose nothing: chosen of {len(thoughts.right[0])} thoughts "
        f"{report.chosen:.3f}, any thought {report.mean:.3f}, the best of them {report.oracle:.3f}"
    )
    print(f"Saved in     {target}")


def _read_own_samples(file: Path, checkpoint: Path) -> tuple[Setting, list[Sampled]]:
    """How the samples of a file were drawn, and the samples.

    Raises:
        RunError: They are not there, or not of this checkpoint.
    """
    if not file.is_file():
        raise RunError(f"There is no file {file}. Name one that an evaluation left, such as RUN/samples/rl/NAME.jsonl.")
    head, rows = Sampled.read(file)
    if head.get("checkpoint") != digest(checkpoint):
        raise RunError(
            f"The samples in {file} are not of {checkpoint} as it is now. Evaluate it again, or name the checkpoint "
            "they are of."
        )
    return Setting.from_dict(head["setting"]), rows


def _warn_of_evaluation(rows: Sequence[Sampled], recipe: Recipe) -> None:
    asked = {problem.question for problem in load_evaluation(recipe)}
    known = sum(row.question in asked for row in rows)
    if known:
        logger.warning(
            "%d of the %d problems learned from are evaluation problems of the recipe. Measure what this model chooses "
            "on others.",
            known,
            len(rows),
        )


def _points(rows: Sequence[Measurement], specs: Sequence[str], count: int) -> list[Point]:
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
