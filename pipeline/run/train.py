"""`neuralese train`: trains the stages of a recipe one after the other, then measures them and writes the report."""

from __future__ import annotations

import logging
import shutil
import time

from accelerate import PartialState
from accelerate.utils import set_seed

from ...data.problem import Problem
from ..evaluate.measure import Measurement
from ..model.build import build_model
from ..model.dtype import with_dtype
from ..model.gguf import load_gguf
from ..model.load import load_tokenizer, make_reasoner
from ..problems.load import load_all
from ..recipe.schema import Recipe
from ..system.activity import NOW, doing
from ..system.compat import set_collective_timeout
from ..system.processes import LONG, join_processes, on_main
from ..tracking.tracker import Tracker
from ..train.checked_problems import encode_checked
from ..train.context import Context
from ..train.hand_over import is_done
from ..train.lora_check import check_lora_modules
from ..train.rl.trainable import check_trainable
from .finished_stages import checkpoint_of, stopped_curriculum, trained_stages
from .folder import open_folder
from .global_batch import record_processes, with_global_batch
from .hub import push
from .launch import announce, check_launched
from .other_run import begin_with
from .plan import PlannedStage, plan
from .results import measure_stages, record_seconds
from .training_data import keep_training_data
from .validate import check_recipe

logger = logging.getLogger(__name__)


def run(recipe: Recipe, resume: bool = False) -> list[Measurement]:
    """Runs a recipe from the first unfinished stage to the report.

    Args:
        resume: Go on with the run in the recipe's folder. Finished stages are kept.

    Raises:
        UserError: Bad input. Nothing is overwritten.
        SavedAndTerminatedError: After SIGTERM while a stage was trained, on all processes of the launch.
    """
    state = join_processes()
    stages = plan(recipe)
    shared = with_global_batch(recipe, state.num_processes) if resume else recipe
    check_recipe(shared)
    check_launched(recipe)
    recipe = with_dtype(recipe)
    with open_folder(recipe, resume):
        NOW.folder = recipe.folder
        announce(state)
        on_main(lambda: record_processes(recipe.folder, state.num_processes))
        on_main(lambda: begin_with(recipe))
        return _run(shared.model_copy(update={"model": recipe.model}), stages, state, resume)


def _run(recipe: Recipe, stages: list[PlannedStage], state: PartialState, resume: bool) -> list[Measurement]:
    set_seed(recipe.seed)
    problems = load_all(recipe)
    _build_base(recipe, [*problems.held_out, *problems.train])
    config, tokenizer = load_tokenizer(checkpoint_of(recipe, "base"), recipe.model.trust_remote_code)
    if recipe.model.lora is not None:
        quantized = recipe.model.quantization is not None
        check_lora_modules(recipe.model.lora, config, recipe.model.trust_remote_code, quantized)
    check_trainable(recipe, config)
    recipe, encoded = encode_checked(recipe, problems, tokenizer, config)
    evaluation = problems.evaluation
    tracker = Tracker(recipe, recipe.folder, state.is_main_process)
    context = Context(recipe, recipe.folder, problems.train, encoded, problems.held_out, evaluation, tracker, resume)
    keep_training_data(recipe.folder, problems.record)
    try:
        for stage in stages:
            folder = recipe.folder / stage.name
            if stage.after == "curriculum" and stopped_curriculum(recipe) is not None:
                continue  # it would start from a curriculum that did not succeed
            if not is_done(folder):
                tracker.start(stage.name)
                started = time.perf_counter()
                with doing(f"training {stage.name}"):
                    stage.train(context, checkpoint_of(recipe, stage.after), folder)
                record_seconds(recipe, stage.name, time.perf_counter() - started)
                if recipe.tracking.log_model:
                    made_of = None if stage.after == "base" else stage.after
                    tracker.log_artifact(stage.name, "model", [folder / "final"], made_of)
        trained = trained_stages(recipe, recipe.folder)
        rows = measure_stages(recipe, trained, evaluation, tracker)
    except BaseException:
        tracker.finish(exit_code=1)
        raise
    tracker.finish()
    sent = [stage for stage in recipe.stages if stage in trained][-1:]
    if recipe.tracking.push_to_hub is not None and sent:
        set_collective_timeout(LONG)  # the others wait for the upload
        if state.is_main_process:
            push(recipe, sent[0], trained[sent[0]], rows)
    return rows


def _build_base(recipe: Recipe, problems: list[Problem]) -> None:
    """Leaves a model in `base/final` where the recipe has model.config or model.gguf_file.

    The vocabulary of a new model covers the problems.
    """
    folder = recipe.folder / "base"
    model = recipe.model
    if model.config is None and model.gguf_file is None:
        return
    if PartialState().is_main_process and not is_done(folder):
        partial = folder / "final.partial"
        shutil.rmtree(partial, ignore_errors=True)
        if model.config is not None:
            build_model(model.config, problems, recipe.seed, partial, recipe.data.answer_format)
        else:
            # With the latent tokens, which TRL's reference model needs where RL is the first stage.
            make_reasoner(*load_gguf(str(model.name_or_path), str(model.gguf_file))).save_pretrained(partial)
        partial.rename(folder / "final")
    PartialState().wait_for_everyone()
