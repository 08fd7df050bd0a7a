"""Trainer configs: the `trainer:` mapping of a recipe section over our defaults, as an object of its config class."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

from transformers import TrainingArguments

from ..recipe.load import RecipeError, nearest
from ..system.processes import on_cpu
from .trainer_trial import check_together
from .trainer_values import check_values, config_values, with_no

# Trainer keys that the pipeline sets itself -> where their value comes from. A recipe may not set them.
RESERVED = {
    "output_dir": "the run folder",
    "seed": "the recipe's seed",
    "data_seed": "the recipe's seed",
    "report_to": "the tracking section",
    "run_name": "the recipe's name",
    "resume_from_checkpoint": "--resume",
    "remove_unused_columns": "the pipeline",
    "save_only_model": "the pipeline, which resumes with the optimizer's state",
    "restore_callback_states_from_checkpoint": "the pipeline, whose callbacks read the log again",
    "disable_tqdm": "the pipeline",
    "model_init_kwargs": "the model section",
    "reward_weights": "the weights of rl.rewards",
    "eval_strategy": "the pipeline, which measures by itself",
    "load_best_model_at_end": "the pipeline, which measures by itself",
    **dict.fromkeys(("bf16", "fp16", "bf16_full_eval", "fp16_full_eval", "cast_lm_head_to_fp32"), "model.dtype"),
    **dict.fromkeys(("torch_compile", "torch_compile_backend", "torch_compile_mode"), "model.compile, layer by layer"),
    **dict.fromkeys(("fsdp", "fsdp_config"), "the launcher, which shards by DeepSpeed (recipes/accelerate/zero3.yaml)"),
    "ds3_gather_for_generation": "model.ds3_gather_for_generation, for all stages",
    **dict.fromkeys(
        (
            "use_vllm",
            "use_transformers_continuous_batching",
            "repetition_penalty",
            "generation_kwargs",
            "cache_implementation",
            "chat_template_kwargs",
        ),
        "the pipeline, which samples latents and answers by itself",
    ),
}
Config = TypeVar("Config", bound=TrainingArguments)


def check_trainer_keys(cls: type[TrainingArguments], key: str, values: dict[str, Any]) -> None:
    """Checks the keys of a `trainer:` mapping against the fields of its config class.

    Args:
        key: The recipe key of the mapping, such as sft.trainer.

    Raises:
        RecipeError: A key of `RESERVED`, or an unknown key; the message names the nearest field.
    """
    known = [field.name for field in dataclasses.fields(cls) if field.init]
    for name in values:
        if name in RESERVED:
            raise RecipeError(f"{key}.{name} is set by {RESERVED[name]}. Remove the key.")
        if name not in known:
            close = nearest(name, known)
            hint = close if "did you mean" in close else f"; it is no field of {cls.__name__}"
            raise RecipeError(f"unknown key '{key}.{name}'{hint}")


def trainer_config(
    cls: type[Config], key: str, values: dict[str, Any], seed: int, output_dir: Path, **defaults: Any
) -> Config:
    """Builds a trainer config from a recipe's mapping over our defaults.

    Args:
        key: The recipe key of the mapping, such as sft.trainer.
        values: The mapping: fields of `cls`.
        defaults: Fields that the mapping may replace.

    Raises:
        RecipeError: Unknown or reserved keys, or values that cannot be trained with.
    """
    check_trainer_keys(cls, key, values)
    values = with_no(values)
    check_values(key, cls, values)
    ours: dict[str, Any] = {
        # Launchers do not pass it on to their workers. Without it processes on CPU do not find each other.
        "use_cpu": on_cpu(),
        "gradient_checkpointing": False,
        "logging_steps": 10,
        "logging_first_step": True,
        "save_total_limit": 2,  # a power cut may tear the newest one
        **defaults,
    }
    fixed = {
        "output_dir": str(output_dir),
        "seed": seed,
        "data_seed": seed,
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "bf16": False,  # the reasoner casts by itself, alike in training and measuring and under every launcher
    }
    try:
        args = cls(**{**ours, **config_values(key, cls, values), **fixed})
    except Exception as error:  # libraries that a value needs raise their own classes of errors
        text = " ".join(str(error).split())
        raise RecipeError(f"{key}: {cls.__name__} refuses these values: {text}") from error
    check_together(key, args)
    return args
