"""Stage 3: reinforcement learning on the rewards of sampled answers, by GRPO or PPO."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig

from ...data.errors import DataError
from ...data.problem import Problem
from ..latent.noise import parse_noise
from ..latent.value_head import add_value_head
from ..loading import load_reasoner
from ..reasoner import Reasoner
from ..recipe import RecipeError
from ..rl_sections import PPOSection, RLSection
from ..sections import Recipe
from ..tracking import TrackingCallback
from .alarms import AlarmCallback
from .common import Context, ProgressCallback, train_and_hand_over, trainer_config
from .estimators import EstimatorError, Rollout, check_estimator, parse_estimator
from .held_out import HeldOutCallback
from .latent_grpo import LatentGRPOTrainer
from .lora import lora_config
from .ppo import Critic, LatentPPOTrainer
from .reward_model import recipe_reward

TRL_COLUMNS = {
    "prompt", "prompts", "completion", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric",
    "image", "images", "environment",
}  # fmt: skip


def rl_rows(problems: list[Problem], num_latents: int) -> list[dict[str, Any]]:
    """Rows of the RL dataset; all columns but `prompt` reach the reward functions.

    Raises:
        DataError: An extra column with a name that TRL keeps for itself.
    """
    extra = dict.fromkeys(name for problem in problems for name in problem.extra)
    taken = sorted(TRL_COLUMNS & extra.keys())
    if taken:
        raise DataError(f"The training data has columns {taken}, names that TRL keeps for itself. Rename them.")
    return [
        {
            **{name: problem.extra.get(name) for name in extra},
            "prompt": problem.question,
            "question": problem.question,
            "steps": list(problem.steps),
            "answer": problem.answer,
            "num_latents": num_latents,
        }
        for problem in problems
    ]


def rollout_settings(recipe: Recipe) -> Rollout:
    """How the rollouts of a recipe are drawn and credited.

    Raises:
        UserError: Options that do not fit each other or the trainer's.
    """
    section = recipe.rl
    assert section is not None
    noise, estimator = parse_noise(section.noise), parse_estimator(section.estimator)
    check_estimator(estimator, noise, recipe.latent.jacobi_sweeps is not None)
    trainer = section.trainer
    group = trainer.get("num_generations", GRPOConfig.num_generations)
    thoughts = section.answers_per_thought * (2 if section.antithetic else 1)
    if group % thoughts:
        raise EstimatorError(
            f"rl.trainer.num_generations={group} must be a multiple of {thoughts} (answers_per_thought, twice that if "
            "antithetic)."
        )
    if noise is None and (section.antithetic or section.answers_per_thought > 1):
        raise EstimatorError("Without rl.noise all thoughts of a question are equal. Remove what varies them.")
    if section.max_at is not None and not 1 <= section.max_at < group:
        raise EstimatorError(f"rl.max_at={section.max_at} must lie between 1 and {group - 1}, below num_generations.")
    if estimator.scores:
        for key, whole in (("importance_sampling_level", "token"), ("top_entropy_quantile", 1.0)):
            if trainer.get(key, whole) != whole:
                raise EstimatorError(
                    f"rl.trainer.{key}={trainer[key]} does not fit the estimator {estimator.name}, whose latents are "
                    "no tokens. Remove the key."
                )
    return Rollout(
        noise, estimator, section.answers_per_thought, section.antithetic, section.max_at, section.equal_groups
    )


def grpo_args(recipe: Recipe, folder: Path) -> GRPOConfig:
    section = recipe.rl
    assert section is not None
    if section.trainer.get("temperature", 1.0) <= 0:
        raise RecipeError(
            f"rl.trainer.temperature={section.trainer['temperature']} must be above 0: the likelihood of a greedy "
            "answer has no gradient to learn from."
        )
    return trainer_config(
        GRPOConfig,
        "rl.trainer",
        section.trainer,
        recipe.seed,
        folder,
        disable_dropout=True,  # TRL samples rollouts in training mode
        reward_weights=[reward.weight for reward in section.rewards],
        trust_remote_code=recipe.model.trust_remote_code,
    )


def train_rl(context: Context, base: str | Path, folder: Path) -> None:
    """Trains on the rewards of sampled answers and leaves `folder/final`."""
    section = context.recipe.rl
    assert section is not None
    # Before the config of the trainer: under ZeRO-3 every model loaded after that would be sharded.
    rewards = [recipe_reward(reward) for reward in section.rewards]
    settings = rollout_settings(context.recipe)
    args = grpo_args(context.recipe, folder)
    model = context.recipe.model
    reasoner = load_reasoner(
        base,
        trust_remote_code=model.trust_remote_code,
        dtype=model.dtype,
        noise=str(settings.noise) if settings.noise else None,
        supervision="none",  # its module is left behind here, and the checkpoint must not promise it
        supervision_options={},
    )
    if reasoner.config.stop_head:
        raise RecipeError(
            f"rl replays a fixed number of latents, and {base} was trained to stop by itself (stop_head)."
        )
    latents = reasoner.config.num_latents
    if args.beta > 0 and latents == 0 and str(base) == model.name_or_path and model.lora is None:
        raise RecipeError(
            "rl.trainer.beta > 0 needs a reference model with the latent tokens, and TRL loads it from "
            f"{base}. Train sft or curriculum first, or set beta to 0."
        )
    callbacks: list[TrainerCallback] = [
        TrackingCallback(context.tracker),
        ProgressCallback("rl"),
        AlarmCallback(section.alarms),
    ]
    held_out = None
    if section.eval_every is not None:
        problems, evaluate = context.held_out[: section.eval_problems], context.recipe.evaluate
        held_out = HeldOutCallback(
            reasoner, problems, evaluate, section.eval_every, settings.noise, args.temperature, evaluate.num_samples
        )
        callbacks.append(held_out)
    trainer = _trainer_of(section, reasoner, settings)(
        reward_funcs=rewards,
        args=args,
        train_dataset=Dataset.from_list(rl_rows(context.train, reasoner.config.num_latents)),
        peft_config=lora_config(context.recipe, reasoner),
        callbacks=callbacks,
    )
    if held_out is not None:
        held_out.trainer = trainer
    train_and_hand_over(trainer, context, reasoner, base, folder)


def _trainer_of(section: RLSection, reasoner: Reasoner, settings: Rollout) -> Callable[..., LatentGRPOTrainer]:
    """The trainer of an algorithm. PPO gets its value head here: a LoRA must know of it."""
    if section.algorithm == "grpo":
        return partial(LatentGRPOTrainer, reasoner, settings)
    critic = Critic(**(section.ppo or PPOSection()).model_dump())
    add_value_head(reasoner.model, critic.detach_trunk)
    return partial(LatentPPOTrainer, reasoner, settings, critic)
