"""`neuralese audit`: finds subject, control and problems of an audit, runs it, and writes what it found."""

from __future__ import annotations

from pathlib import Path

from accelerate import PartialState

from ...data.answer_formats import answer_format_of
from ...data.problem import Problem
from ...data.tasks import change_one, guess_share
from ...rewards.score import is_right
from ..evaluate.audit.audit import (
    PAUSE,
    Audit,
    AuditError,
    Question,
    Subject,
    audit,
    check_control,
    check_subject,
)
from ..evaluate.audit.table import print_audit, write_audit
from ..evaluate.report.page import report_images, write_report
from ..latent.config import LatentConfig
from ..latent.latentize import has_supervision
from ..model.answer_limits import check_checkpoints_fit
from ..model.load import load_reasoner
from ..problems.load import load_evaluation
from ..recipe.load import load_recipe
from ..recipe.schema import Recipe
from ..system.activity import doing
from ..system.files import writable
from ..tracking.tracker import Tracker
from .finished_stages import find_checkpoints, run_folder, trained_stages
from .folder import RunError

# Problems whose latents are read by probes, for each problem that is answered. Latents cost less than answers.
PROBED = 4


def audit_folder(
    folder: Path,
    overrides: list[str],
    control: Path | None,
    count: int,
    guess: float | None,
    output: Path | None,
    recipe_path: Path | None,
) -> None:
    """Audits the last stage with latents of a run, or one checkpoint, and prints and writes what it finds.

    RUN/audit.json also goes into the report of the run, which is written anew, and to W&B. Of several processes one
    does this (`processes.alone`).

    Args:
        control: A pause control, or a run with one. None: the one of the audited run, if it has one.
        count: Evaluation problems to answer.
        guess: Accuracy of a guess. None: `guess_share`.

    Raises:
        UserError: No run or checkpoint there, no latents, or a control that is none or was trained on other data.
    """
    recipe, checkpoints = find_checkpoints(folder, overrides, recipe_path)
    target = writable(output or folder / "audit.json")
    name = next((stage for stage in ("rl", "curriculum") if stage in checkpoints), list(checkpoints)[-1])
    run = run_folder(folder)
    siblings = trained_stages(recipe, run) if run is not None else {}
    subject = _load(recipe, checkpoints[name])
    check_subject(subject)
    place = _pause_of(siblings) if control is None else _control_checkpoint(control, recipe)
    compared = _load(recipe, place) if place is not None else None
    if compared is not None:
        check_control(compared)
    writer = next((siblings[stage] for stage in ("text_cot", "sft") if stage in siblings), None)
    text = _load(recipe, writer) if writer is not None else subject
    evaluation = load_evaluation(recipe)
    problems = evaluation[:count]
    if len(problems) < 2:
        raise AuditError("An audit needs at least 2 evaluation problems, of which latents can be swapped.")
    changed = _changed(recipe, subject.reasoner.config, problems)
    asks = [*evaluation, *(other for other in changed if other is not None)]
    check_checkpoints_fit(recipe, {name: checkpoints[name]}, asks)
    task = recipe.data.eval.task
    floor = guess_share(task, problems) if guess is None else guess
    asked = Question(problems, evaluation[: PROBED * count], floor, changed)
    with doing("auditing"):
        found = audit(subject, compared, text, asked, recipe.evaluate, recipe.seed)
    write_audit(target, found)
    print_audit(found)
    print(f"Audit        {target}")
    if run is not None and target.resolve() == (run / "audit.json").resolve():
        print(f"Report       {write_report(run)}")
        _track(recipe, run, found)


def _load(recipe: Recipe, checkpoint: Path) -> Subject:
    reasoner = load_reasoner(
        checkpoint,
        trained=True,
        supervised=has_supervision(str(checkpoint)),
        **recipe.model.loading,
    )
    reasoner.model.to(PartialState().device).eval()
    return Subject(str(checkpoint), reasoner)


def _track(recipe: Recipe, run: Path, found: Audit) -> None:
    """Records gates, interventions and the map of thoughts in W&B, as a separate run of the group."""
    tracker = Tracker(recipe, run, is_main=True)
    tracker.start("audit")
    gates = [[gate.name, gate.passed, gate.because] for gate in found.gates]
    tracker.log_table("audit/gates", ["gate", "passed", "because"], gates, 0)
    effects = [
        [one.name, one.accuracy.n, one.accuracy.value, *one.accuracy.ci95, one.loss.value, *one.loss.ci95]
        for one in found.effects
    ]
    columns = ["latents", "n", "accuracy", "low", "high", "lost", "lost low", "lost high"]
    tracker.log_table("audit/effects", columns, effects, 0)
    tracker.log_images({"report/thoughts": report_images(run)["thoughts"]}, 0)
    tracker.log_artifact("audit", "audit", [run / "audit.json"])
    tracker.finish()


def _pause_of(checkpoints: dict[str, Path]) -> Path | None:
    return next((checkpoints[name] for name in PAUSE if name in checkpoints), None)


def _control_checkpoint(control: Path, recipe: Recipe) -> Path:
    """The checkpoint of a control: the folder itself, or the pause stage of a run.

    Raises:
        RunError: Nothing there, or one that was trained on other data than the model it is compared with.
    """
    if not control.is_dir():
        raise RunError(f"There is no folder {control}. Name the checkpoint of a pause control, or a run with one.")
    run = run_folder(control)
    if run is None:
        return control
    theirs = load_recipe(run / "recipe.yaml", [])
    if theirs.data.train != recipe.data.train:
        raise RunError(
            f"The control {control} was trained on other data: data.train of {run / 'recipe.yaml'} is not that of the "
            "audited model. Train the control on the same data."
        )
    if run.resolve() != control.resolve():
        return control
    found = _pause_of(trained_stages(theirs, run))
    if found is None:
        raise RunError(f"The run {control} has no finished pause control. Train one with controls.pause=true.")
    return found


def _changed(recipe: Recipe, section: LatentConfig, problems: list[Problem]) -> list[Problem | None]:
    """Each problem with one thing of its question changed, such that a step replaced by latents changes, and that no
    right answer stays right; None for one without such a change.
    """
    source, scorer = recipe.data.eval, recipe.evaluate.scorer
    steps = max(1, section.num_latents // section.latents_per_step)
    changed = [change_one(source.task, source.options, problem, recipe.seed, steps) for problem in problems]
    pairs = [(place, other) for place, other in enumerate(changed) if other is not None]
    answers = [[answer_format_of(section.answer_format).written(other.answer)] for _, other in pairs]
    stays = is_right(scorer, [problems[place] for place, _ in pairs], answers, section.answer_format)
    for (place, _), is_still_right in zip(pairs, stays, strict=True):
        changed[place] = None if is_still_right else changed[place]
    return changed
