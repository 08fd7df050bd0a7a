"""One visit: a level is trained, measured as it goes, and leaves weights and a report."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import set_seed
from peft import get_peft_model
from transformers import Trainer, TrainingArguments

from ...latent.latentize import measure_embedding_rms
from ...latent.noise import parse_noise
from ...model.load import load_reasoner
from ...model.reasoner import Reasoner
from ...problems.collate import Collator, LevelDataset
from ...problems.format import Format
from ...problems.schedule import TEXT, Level
from ...recipe.load import RecipeError
from ...recipe.schema import Recipe
from ...tracking.tracker import TrackingCallback
from ..callbacks import ProgressCallback
from ..context import Context
from ..followed import Followed
from ..hand_over import train_and_hand_over
from ..lora import lora_config
from .arm_plan import ArmPlan
from .arms import LATENT
from .level_trainer import LevelTrainer
from .limits import curriculum_args, items_per_step, set_rl_batch
from .optimizer_state import OPTIMIZER, save_optimizer
from .promotion import Promotion

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Visit:
    """One training of one level. A level that the curriculum steps back to has several.

    Attributes:
        folder: Of the visit, in the folder of the arm.
        base: Weights that it starts from.
        steps_before: Optimizer steps of all earlier visits.
        max_steps: The most optimizer steps of this one.
        optimizer_of: File with the optimizer's state that it starts from. None: a fresh optimizer.
    """

    level: Level
    folder: Path
    base: str | Path
    steps_before: int
    max_steps: int
    optimizer_of: Path | None


def train_visit(context: Context, plan: ArmPlan, visit: Visit) -> None:
    """Trains one level and leaves `final` in the visit's folder, with the report that `reports.py` describes.

    Raises:
        RecipeError: Options that exclude each other, or the optimizer's state to start from was removed.
    """
    _check_optimizer(visit)
    recipe, level = context.recipe, visit.level
    args = level_arguments(recipe, plan, level, visit.folder)
    args.max_steps = visit.max_steps
    set_seed(recipe.seed)  # random numbers of a level do not depend on what ran before it in this process
    reasoner = load_for_level(recipe, plan, level, visit.base)
    noise = parse_noise(plan.section.noise) if plan.is_last(level) and plan.name == LATENT else None
    promotion = Promotion(
        reasoner,
        context.held_out[: plan.section.eval_problems],
        recipe.evaluate,
        level.num_latents,
        plan.threshold(level),
        plan.section.eval_every,
        plan.section.patience,
        Followed(context.tracker, visit.steps_before),
    )
    model: Any = reasoner.model
    lora = lora_config(recipe, reasoner)
    if lora is not None:
        model = get_peft_model(model, lora)
    length = args.max_steps * items_per_step(args)
    trainer = LevelTrainer(
        model=model,
        args=args,
        train_dataset=_dataset(context, plan, level, reasoner, length, noise is not None),
        data_collator=Collator(reasoner.tokenizer.pad_token_id),
        processing_class=reasoner.tokenizer,
        callbacks=[
            promotion,
            TrackingCallback(context.tracker, visit.steps_before, {"curriculum_level": level.index}),
            ProgressCallback(f"{visit.folder.parent.name} {level.index}/{len(plan.levels)}"),
        ],
        noise=noise,
        noise_ramp=plan.section.noise_ramp,
        optimizer_of=visit.optimizer_of,
    )
    trainer.ds3_gather_for_generation = recipe.model.ds3_gather_for_generation
    promotion.trainer = trainer
    if not plan.section.reset_optimizer and trainer.is_deepspeed_enabled:
        raise RecipeError("curriculum.reset_optimizer=false does not work with DeepSpeed. Remove it.")

    def report(trainer: Trainer) -> dict[str, Any]:
        return _end(trainer, promotion, plan, visit)

    train_and_hand_over(trainer, context, reasoner, visit.base, visit.folder, report)


def _check_optimizer(visit: Visit) -> None:
    if visit.optimizer_of is not None and not visit.optimizer_of.is_file():
        raise RecipeError(
            f"{visit.folder} begins with the optimizer's state of the level before it, as reset_optimizer=false "
            f"asks, and that was removed when the curriculum was finished. Delete {visit.folder.parent} to train all "
            "of its levels anew."
        )


def level_arguments(recipe: Recipe, plan: ArmPlan, level: Level, folder: Path) -> TrainingArguments:
    """The Trainer's arguments for a level, but for its number of optimizer steps."""
    args = curriculum_args(recipe, folder, plan.is_last(level))
    if plan.arm.as_rl:
        set_rl_batch(args, recipe)
    return args


def load_for_level(recipe: Recipe, plan: ArmPlan, level: Level, base: str | Path) -> Reasoner:
    """The reasoner that a level trains: the weights of `base`, and the latent section of the arm at this level."""
    reasoner = load_reasoner(
        base,
        supervised=True,
        **recipe.model.loading,
        **level_options(recipe, plan, level),
        **recipe.data.text_options,
    )
    measure_embedding_rms(reasoner.model)
    return reasoner


def level_options(recipe: Recipe, plan: ArmPlan, level: Level) -> dict[str, Any]:
    """The fields of the latent section that an arm sets at a level."""
    latent, section, has_latents = recipe.latent, plan.section, level.num_latents > 0
    return {
        "thought_source": plan.arm.thought_source or latent.thought_source,
        "thought_options": {} if plan.arm.thought_source else latent.thought_options,
        "latents_per_step": latent.block_size,
        "num_latents": level.num_latents,
        "delimiters": latent.delimiters,
        "level": level.index,
        "supervision": section.supervision if has_latents else "none",
        "supervision_weight": section.supervision_weight,
        "supervision_options": section.supervision_options if has_latents else {},
        "stop_head": latent.stop_head and has_latents,
        **latent.passes(level.num_latents),
        # The control thinks nothing. In place of the embedding it puts the embedding, to which it must not be added.
        "injection": "replace" if plan.arm.thought_source == "pause_multi" else latent.injection,
        "backprop_steps": latent.backprop_steps,
    }


def _dataset(
    context: Context, plan: ArmPlan, level: Level, reasoner: Reasoner, length: int, noisy: bool
) -> LevelDataset:
    """The items of a visit: `length` of them, each with a noise seed if `noisy`."""
    return LevelDataset(
        context.encoded,
        [TEXT, *plan.levels],
        level.index,
        length,
        Format(reasoner.config, plan.section.pad_latents, reasoner.tokenizer.eos_token_id),
        # Arms of one level measure training without earlier levels, so they see none.
        plan.section.mix_earlier if plan.arm.levels == "all" else 0.0,
        context.recipe.seed,
        noisy,
    )


def _end(trainer: Trainer, promotion: Promotion, plan: ArmPlan, visit: Visit) -> dict[str, Any]:
    """Saves the optimizer's state for the next level, if it is to be kept, and returns the report of the visit."""
    level, steps, is_main = visit.level, trainer.state.global_step, PartialState().is_main_process
    if not plan.section.reset_optimizer and is_main:
        save_optimizer(trainer.optimizer, visit.folder / OPTIMIZER)
    earlier = None
    if plan.rules.step_back_at is not None and level.index > 1:
        earlier = promotion.measure(plan.levels[level.index - 2].num_latents)
    if promotion.target is not None and not promotion.is_promoted and is_main:
        logger.warning(
            "Level %d of %s ended after %d of at most %d optimizer steps with held-out accuracy %.3f, below %.2f.",
            level.index, visit.folder.parent.name, steps, visit.max_steps, promotion.accuracy, promotion.target,
        )  # fmt: skip
    return {
        "level": level.index,
        "steps": steps,
        "accuracy": promotion.accuracy,
        "target": promotion.target,
        "promoted": promotion.is_promoted,
        "earlier": earlier,
    }
