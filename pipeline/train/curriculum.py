"""Stage 2: the latent curriculum. One Transformers Trainer per curriculum stage, promoted by measured accuracy."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import reduce, set_seed
from peft import get_peft_model
from transformers import Trainer, TrainerCallback, TrainingArguments
from trl.models import unwrap_model_for_generation

from ...data.errors import DataError
from ..collate import Collator, StageDataset
from ..curriculum import TEXT, Encoded, Stage, check_context, check_one_token_steps, encode, plan_stages
from ..latent.reasoner import measure_embedding_rms
from ..reasoner import Reasoner, load_reasoner
from ..recipe import Recipe, RecipeError
from ..score import is_right
from ..tracking import TrackingCallback
from .common import (
    REPORT,
    Context,
    ProgressCallback,
    check_prompts,
    inner_model,
    is_done,
    lora_config,
    train_and_hand_over,
    trainer_config,
)

logger = logging.getLogger(__name__)


class CurriculumTrainer(Trainer):
    """A Trainer whose model computes the loss over latents; logs the token and latent parts of the loss."""

    # The model divides by `num_items_in_batch`, the items of all micro-batches of a step.
    loss_is_scaled_for_ga = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._parts: dict[str, list[torch.Tensor]] = {"token_loss": [], "latent_loss": []}
        self.measured: float | None = None  # held-out accuracy that is not logged yet

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        for name, values in self._parts.items():
            values.append(outputs[name])
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        for name, values in self._parts.items():
            if values and "loss" in logs:
                logs[name] = torch.stack(values).mean().item()
                values.clear()
        if self.measured is not None:
            logs["accuracy"], self.measured = self.measured, None
        super().log(logs, start_time)


class Promotion(TrainerCallback):
    """Measures greedy accuracy on held-out problems every few steps and ends the stage once it is reached.

    The problems are shared out over the processes.
    """

    def __init__(self, reasoner: Reasoner, context: Context, target: float | None, num_latents: int) -> None:
        self.reasoner, self.context, self.target, self.num_latents = reasoner, context, target, num_latents
        self.every = context.recipe.curriculum.eval_every  # type: ignore[union-attr]
        self.trainer: CurriculumTrainer | None = None
        self.accuracy = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self.every and state.global_step < state.max_steps:
            return
        self.accuracy = self.measure()
        if self.target is not None and self.accuracy >= self.target:
            control.should_training_stop = True
        assert self.trainer is not None
        self.trainer.measured = self.accuracy
        control.should_log = True

    def measure(self) -> float:
        """Greedy accuracy on the held-out problems."""
        assert self.trainer is not None
        settings, state = self.context.recipe.evaluate, PartialState()
        mine = self.context.held_out[state.process_index :: state.num_processes]
        accelerator = self.trainer.accelerator
        with unwrap_model_for_generation(self.trainer.model_wrapped, accelerator) as model:
            samples = Reasoner(inner_model(model), self.reasoner.tokenizer).generate(
                [problem.question for problem in mine],
                num_latents=self.num_latents,
                max_new_tokens=settings.max_new_tokens,
                batch_size=settings.batch_size,
            )
        right = is_right(settings.scorer, mine, [sample.texts for sample in samples]).sum()
        return float(reduce(torch.tensor(float(right), device=state.device))) / len(self.context.held_out)

    def report(self, trainer: Trainer) -> dict[str, Any]:
        """How the stage ended."""
        promoted = self.target is not None and self.accuracy >= self.target
        steps = trainer.state.global_step
        return {"steps": steps, "accuracy": self.accuracy, "target": self.target, "promoted": promoted}


def step_factor(recipe: Recipe, most_steps: int, control: str | None) -> int:
    """Step limits of one stage that a stage may use: the no-CoT control has one stage for those of all."""
    return len(curriculum_stages(recipe, most_steps)) if control == "no_cot" else 1


def curriculum_stages(recipe: Recipe, most_steps: int, control: str | None = None) -> list[Stage]:
    """The stages a recipe plans; the no-CoT control has one, without steps and without latents."""
    if most_steps == 0:
        raise DataError("No training problem has steps, so there is nothing to make latent. Remove the curriculum.")
    if control == "no_cot":
        return [Stage(1, None, 0)]
    return plan_stages(most_steps, recipe.latent.latents_per_step, recipe.latent.max_stage)


def curriculum_args(recipe: Recipe, folder: Path) -> TrainingArguments:
    section = recipe.curriculum
    assert section is not None
    args = trainer_config(TrainingArguments, "curriculum", section.trainer, recipe.seed, folder)
    if args.max_steps <= 0:
        raise RecipeError("curriculum.trainer.max_steps is missing: the step limit of each curriculum stage.")
    return args


def train_curriculum(context: Context, base: str | Path, folder: Path, control: str | None = None) -> None:
    """Trains all stages in order and leaves `folder/final`.

    Args:
        control: "pause" replaces latents by pause tokens, "no_cot" trains question -> answer with the steps of all
            curriculum stages together.
    """
    recipe, start = context.recipe, base
    section = recipe.curriculum
    assert section is not None
    most_steps = max(len(problem.steps) for problem in context.train)
    stages = curriculum_stages(recipe, most_steps, control)
    encoded: list[Encoded] | None = None
    offset = 0
    for stage in stages:
        stage_folder = folder / f"stage-{stage.index}"
        if not is_done(stage_folder):
            args = curriculum_args(recipe, stage_folder)
            args.max_steps *= step_factor(recipe, most_steps, control)
            set_seed(recipe.seed)  # what a stage draws must not depend on what ran before it in this process
            reasoner = _load(recipe, start, stage, control)
            if encoded is None:
                encoded = encode(context.train, reasoner.tokenizer)
                check_context(encoded, [TEXT, *stages] if section.mix_earlier else stages, reasoner.context_window)
                if section.supervision_weight > 0 and control != "no_cot":
                    check_one_token_steps(encoded, reasoner.tokenizer)
                longest, room = stages[-1].num_latents, recipe.evaluate.max_new_tokens
                check_prompts(reasoner, [*context.held_out, *context.evaluation], longest, room)
            _train_stage(context, reasoner, args, encoded, stages, stage, start, stage_folder, offset, control)
        offset += json.loads((stage_folder / "final" / REPORT).read_text())["steps"]
        start = stage_folder / "final"
    if PartialState().is_main_process and not is_done(folder):
        (folder / "final").symlink_to(Path(f"stage-{stages[-1].index}") / "final")
    PartialState().wait_for_everyone()


def _load(recipe: Recipe, start: str | Path, stage: Stage, control: str | None) -> Reasoner:
    reasoner = load_reasoner(
        start,
        trust_remote_code=recipe.model.trust_remote_code,
        dtype=recipe.model.dtype,
        thought_source="pause" if control == "pause" else recipe.latent.thought_source,
        latents_per_step=recipe.latent.latents_per_step,
        num_latents=stage.num_latents,
        stage=stage.index,
        supervision_weight=recipe.curriculum.supervision_weight if recipe.curriculum else 0.0,
        jacobi_sweeps=recipe.latent.jacobi_sweeps,
        backprop_steps=recipe.latent.backprop_steps,
    )
    measure_embedding_rms(reasoner.model)
    return reasoner


def _train_stage(
    context: Context,
    reasoner: Reasoner,
    args: TrainingArguments,
    encoded: Sequence[Encoded],
    stages: Sequence[Stage],
    stage: Stage,
    base: str | Path,
    folder: Path,
    offset: int,
    control: str | None,
) -> None:
    """Trains one stage; its report holds steps, accuracy and whether it was promoted."""
    section = context.recipe.curriculum
    assert section is not None
    is_last = stage is stages[-1]
    # A control gets every step it can use: it is never stopped short to leave RL something to do.
    stop_early = is_last and section.last_stage_at is not None and control is None
    target = section.last_stage_at if stop_early else section.promote_at
    # Without latents nothing in the prompt tells a text item apart, and the no-CoT control would see chains of thought.
    mix_earlier = section.mix_earlier if stage.num_latents else 0.0
    per_step = args.per_device_train_batch_size * args.gradient_accumulation_steps * PartialState().num_processes
    dataset = StageDataset(
        encoded,
        [TEXT, *stages],
        stage.index,
        args.max_steps * per_step,
        reasoner.config.token_ids,
        reasoner.config.latents_per_step,
        mix_earlier,
        section.supervision_weight > 0,
        context.recipe.seed,
    )
    promotion = Promotion(reasoner, context, target, stage.num_latents)
    model: Any = reasoner.model
    lora = lora_config(context.recipe, reasoner)
    if lora is not None:
        model = get_peft_model(model, lora)
    trainer = CurriculumTrainer(
        model=model,
        args=args,
        train_dataset=dataset,
        data_collator=Collator(reasoner.tokenizer.pad_token_id),
        processing_class=reasoner.tokenizer,
        callbacks=[
            promotion,
            TrackingCallback(context.tracker, offset, {"curriculum_stage": stage.index}),
            ProgressCallback(f"{folder.parent.name} {stage.index}/{len(stages)}"),
        ],
    )
    promotion.trainer = trainer
    train_and_hand_over(trainer, context, reasoner, base, folder, promotion.report)
    if target is not None and promotion.accuracy < target and PartialState().is_main_process:
        logger.warning(
            "Stage %d ended at its step limit of %d with accuracy %.3f, below %.2f. The next stage starts from it; "
            "raise curriculum.trainer.max_steps or lower the threshold if later stages fail.",
            stage.index, trainer.state.global_step, promotion.accuracy, target,
        )  # fmt: skip
