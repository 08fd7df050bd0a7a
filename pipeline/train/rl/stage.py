"""The stage `rl`: reinforcement learning on the rewards of sampled answers, by GRPO or PPO."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from transformers import TrainerCallback

from ...latent.noise import check_fits
from ...latent.supervision import build_supervision
from ...latent.value_head import add_value_head
from ...model.load import load_reasoner
from ...model.reasoner import Reasoner
from ...recipe.load import RecipeError
from ...recipe.schema import PPOSection, RLSection
from ...scoring.recipe_rewards import recipe_reward
from ...tracking.tracker import TrackingCallback
from ..callbacks import ProgressCallback
from ..context import Context
from ..followed import Followed
from ..hand_over import train_and_hand_over
from ..lora import lora_config
from ..text_writer import load_writer
from .alarms import AlarmCallback
from .estimators import check_estimator
from .grpo import LatentGRPOTrainer
from .held_out import HeldOutCallback
from .legibility import is_legible
from .ppo import Critic, LatentPPOTrainer
from .rollouts import RolloutSettings
from .rollouts_table import RolloutsTable
from .settings import RowCollator, check_stops, grpo_args, rl_rows, rollout_settings, steps_between_draws
from .step_labels import StepLabels
from .trainable import train_only, weights_that_train


def train_rl(context: Context, base: str | Path, folder: Path) -> None:
    """Trains on the rewards of sampled answers and leaves `folder/final`."""
    section = context.recipe.rl
    assert section is not None
    # Loaded before the trainer's config is made: under ZeRO-3 every model that is loaded later is sharded.
    rewards = [recipe_reward(reward) for reward in section.rewards]
    writer = _writer(context)
    settings = rollout_settings(context.recipe)
    args = grpo_args(context.recipe, folder)
    reasoner = load_reasoner(
        base,
        **context.recipe.model.loading,
        **context.recipe.data.text_options,
        noise=str(settings.noise) if settings.noise else None,
    )
    if reasoner.config.supervision != "step_tokens":
        # Its module is left behind here, and the checkpoint must not promise it.
        reasoner.model.set_latent_config(supervision="none", supervision_options={})
    # A checkpoint from elsewhere may differ from the latent section of the recipe.
    if reasoner.config.stop_head:
        check_stops(section)
    check_estimator(settings.estimator, settings.noise, reasoner.config.mode)
    check_fits("rl.noise", settings.noise, reasoner.config.thought_source)
    latents = reasoner.config.num_latents
    model = context.recipe.model
    if args.beta > 0 and latents == 0 and str(base) == model.name_or_path and model.lora is None:
        raise RecipeError(
            "rl.trainer.beta > 0 needs a reference model with the latent tokens, and TRL loads it from "
            f"{base}. Train sft or curriculum first, or set beta to 0."
        )
    logging.getLogger("trl.trainer.grpo_trainer").addFilter(_is_news)
    tracking, progress = TrackingCallback(context.tracker), ProgressCallback("rl")
    callbacks: list[TrainerCallback] = [
        tracking,
        progress,
        AlarmCallback(section.alarms, reasoner.config.compute_dtype, context.tracker),
    ]
    held_out = None
    if section.eval_every is not None:
        problems, evaluate = context.held_out[: section.eval_problems], context.recipe.evaluate
        held_out = HeldOutCallback(
            reasoner, problems, evaluate, section.eval_every, settings.noise, evaluate.num_samples,
            writer if is_legible(reasoner) else None, Followed(context.tracker),
            temperature=args.temperature, top_k=args.top_k or 0, top_p=args.top_p or 1.0, min_p=args.min_p,
        )  # fmt: skip
        callbacks.append(held_out)
    labels = _step_labels(context, section.step_tokens_weight, reasoner)
    rows = RowCollator(rl_rows(context.train, reasoner.config.num_latents, reasoner.config.answer_format))
    trainer = _trainer_of(section, reasoner, settings)(
        reward_funcs=rewards,
        args=args,
        train_dataset=rows.numbers(),
        peft_config=lora_config(context.recipe, reasoner),
        callbacks=callbacks,
    )
    if section.trainable is not None:
        train_only(trainer.model, section.trainable)
        trained, whole = weights_that_train(trainer.model)
        tracking.extra["trainable_parameters"] = trained
        progress.title = f"rl, {trained:,} of {whole:,} weights train"
    trainer.ds3_gather_for_generation = model.ds3_gather_for_generation
    trainer.data_collator = rows
    trainer.step_labels = labels
    trainer.table = _table(context, args.log_completions)
    if held_out is not None:
        held_out.trainer = trainer
    train_and_hand_over(trainer, context, reasoner, base, folder, save_every=steps_between_draws(args))


def _table(context: Context, is_whole: bool) -> RolloutsTable | None:
    """The table of rollouts, where one is recorded: now and then the first ones, or all at every draw."""
    every, tracker = context.recipe.tracking.tables_every, context.tracker
    if tracker.wandb_run is None or (every is None and not is_whole):
        return None
    return RolloutsTable(tracker, 1, None) if is_whole or every is None else RolloutsTable(tracker, every)


def _writer(context: Context) -> Reasoner | None:
    """The model that judges what is read in thoughts, where the recipe asks for it and RL measures thoughts."""
    section = context.recipe.rl
    is_asked = "logprob" in context.recipe.evaluate.monitor and section is not None and section.eval_every is not None
    return load_writer(context.folder, context.recipe.model) if is_asked else None


def _step_labels(context: Context, weight: float, reasoner: Reasoner) -> StepLabels | None:
    """Labels on the latents of rollouts, with the module that computes their loss; None with weight 0."""
    if weight == 0:
        return None
    questions, config = [problem.question for problem in context.train], reasoner.config
    labels = StepLabels.make(weight, questions, context.encoded, config, reasoner.tokenizer.eos_token_id)
    reasoner.model.supervision = build_supervision(reasoner.model, config.supervision, config.supervision_options)
    return labels


def _is_news(record: logging.LogRecord) -> bool:
    """Filters out TRL's warning of completions without a reward, which prints a whole row at every step.

    The metric `group/unscored` counts them, and an alarm watches it.
    """
    return "All reward functions returned None" not in record.getMessage()


def _trainer_of(section: RLSection, reasoner: Reasoner, settings: RolloutSettings) -> Callable[..., LatentGRPOTrainer]:
    """The trainer of an algorithm. PPO's value head is added here, before a LoRA is made that must know of it."""
    if section.algorithm == "grpo":
        return partial(LatentGRPOTrainer, reasoner, settings)
    critic = Critic(**(section.ppo or PPOSection()).model_dump())
    add_value_head(reasoner.model, critic.detach_trunk)
    return partial(LatentPPOTrainer, reasoner, settings, critic)
