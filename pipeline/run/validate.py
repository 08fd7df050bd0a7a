"""Checks of a recipe that need neither data nor weights."""

from __future__ import annotations

from typing import Any

from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from ...rewards.loading import load_reward
from ..evaluate.search import check_search
from ..latent.engine.compiling import check_compiler
from ..latent.noise import Noise, check_fits, parse_noise
from ..latent.supervision import check_supervision
from ..latent.thoughts import THOUGHT_SOURCES, build_source
from ..model.dtype import with_dtype
from ..model.from_text import can_be_read
from ..model.plugins import load_plugins
from ..model.quantization import check_bitsandbytes
from ..recipe.load import RecipeError, nearest
from ..recipe.schema import Recipe
from ..scoring.latent_reward import check_latent_reward
from ..scoring.recipe_rewards import check_recipe_reward
from ..system.files import check_writable
from ..system.processes import on_cpu
from ..tracking.other_trackers import check_trackers
from ..tracking.wandb_run import check_wandb
from ..train.curriculum.limits import curriculum_args
from ..train.lora_check import check_recipe_lora
from ..train.rl.settings import check_batch, grpo_args, rollout_settings
from ..train.rl.trainable import check_recipe_trainable
from ..train.sft import sft_args
from .folder import is_begun
from .hub import check_hub
from .launch import check_compiled_launch, check_launcher, check_quantized_launch
from .other_run import check_source

SAMPLING = "evaluate.sampling"
TRAINER_ARGS = {"sft": sft_args, "curriculum": curriculum_args, "rl": grpo_args}


def check_recipe(recipe: Recipe) -> None:
    """Checks everything that can be checked without data or weights, so that no error comes after hours of training.

    Raises:
        UserError: Trainer keys or values that a config class refuses, an unknown thought source, noise, reward or
            scorer, and so on.
    """
    check_writable(recipe.folder, "output_dir")
    check_wandb(recipe)
    check_trackers(recipe)
    check_hub(recipe)
    check_launcher()
    if recipe.resume_from is not None and not is_begun(recipe.folder):
        check_source(with_dtype(recipe))
    load_plugins(recipe.plugins)
    built: dict[str, Any] = {stage: TRAINER_ARGS[stage](recipe, recipe.folder / stage) for stage in recipe.stages}
    asked = {f"{stage}.trainer": args for stage, args in built.items()}
    if recipe.curriculum is not None:
        asked["curriculum.last_level_trainer"] = curriculum_args(recipe, recipe.folder, is_last=True)
    unset_hf_deepspeed_config()  # under ZeRO-3 a config that was built makes every model loaded later sharded
    if recipe.curriculum is not None:
        check_supervision(recipe.curriculum.supervision, recipe.curriculum.supervision_options)
        check_noise("curriculum.noise", recipe.curriculum.noise, recipe)
        if recipe.model.lora is not None and not recipe.curriculum.reset_optimizer:
            raise RecipeError("curriculum.reset_optimizer=false does not work with LoRA, whose adapters are merged.")
    source = recipe.latent.thought_source
    if source not in THOUGHT_SOURCES:
        raise RecipeError(f"Unknown latent.thought_source {source!r}{nearest(source, list(THOUGHT_SOURCES))}")
    build_source(source, recipe.latent.thought_options, hidden_size=8)
    if recipe.evaluate.thought == "as_text" and not can_be_read(source):
        raise RecipeError(
            f"evaluate.thought=as_text reads latents, and with latent.thought_source={source} there is nothing in "
            "them. Change one of the two."
        )
    for sampling in recipe.evaluate.sampling:
        if check_noise(SAMPLING, sampling.noise, recipe) is None and sampling.temperature == 0:
            raise RecipeError("evaluate.sampling: noise of scale 0 and temperature 0 make all samples equal.")
    for search in recipe.evaluate.search if THOUGHT_SOURCES[source].is_recurrent else []:
        check_search(search.noise, recipe.latent)
    check_recipe_lora(recipe)
    check_quantized_launch(recipe)
    check_compiled_launch(recipe, asked)
    if recipe.model.quantization is not None:
        check_bitsandbytes()
    if recipe.model.compile:
        check_compiler("cpu" if on_cpu() else "cuda")
    load_reward(recipe.evaluate.scorer)
    if recipe.evaluate.selection_reward is not None:
        check_recipe_reward(recipe.evaluate.selection_reward)
    if recipe.evaluate.latent_reward is not None:
        check_latent_reward(recipe.evaluate.latent_reward)
    if recipe.rl is not None:
        check_noise("rl.noise", recipe.rl.noise, recipe)
        rollout_settings(recipe)
        check_batch(recipe.rl, built["rl"])
        check_recipe_trainable(recipe)
        for reward in recipe.rl.rewards:
            check_recipe_reward(reward)


def check_noise(key: str, spec: str | None, recipe: Recipe) -> Noise | None:
    """Parses the noise of a recipe key and checks it against the thought source.

    Raises:
        UserError: It is no noise, or needs another thought source.
    """
    noise, source = parse_noise(spec), recipe.latent.thought_source
    # An evaluation leaves noise out for models without latents, so there it is no error.
    if key != SAMPLING or THOUGHT_SOURCES[source].is_recurrent:
        check_fits(key, noise, source)
    return noise
