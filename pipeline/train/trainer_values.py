"""Checks of values in a `trainer:` mapping that its config class accepts, but that would fail later in the run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError
from transformers import TrainingArguments
from transformers.training_args import trainer_log_levels
from trl import GRPOConfig, SFTConfig

from ..recipe.load import RecipeError
from ..recipe.schema import expanded

Count = Annotated[int, Field(ge=1)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
AboveZero = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]

# Bounds of fields. The config classes check few of them. A field that is not here is checked for its type only.
BOUNDS: dict[str, Any] = {
    **dict.fromkeys(
        (
            "max_steps",
            "per_device_train_batch_size",
            "gradient_accumulation_steps",
            "num_generations",
            "max_completion_length",
            "num_iterations",
            "steps_per_generation",
            "generation_batch_size",
            "save_total_limit",
            "ref_model_sync_steps",
            "dataloader_prefetch_factor",
            "torch_empty_cache_steps",
            "ddp_timeout",
            "ddp_bucket_cap_mb",
            "dataset_num_proc",
        ),
        Count,
    ),
    **dict.fromkeys(
        (
            "learning_rate",
            "weight_decay",
            "adam_epsilon",
            "max_grad_norm",
            "warmup_steps",
            "neftune_noise_alpha",
            "beta",
            "epsilon",
            "epsilon_high",
            "dataloader_num_workers",
            "router_aux_loss_coef",
        ),
        Amount,
    ),
    **dict.fromkeys(("num_train_epochs", "save_steps", "logging_steps", "temperature", "delta"), AboveZero),
    **dict.fromkeys(("min_p", "ref_model_mixup_alpha", "top_entropy_quantile", "label_smoothing_factor"), Share),
    **dict.fromkeys(("adam_beta1", "adam_beta2"), BelowOne),
    "top_p": Annotated[float, Field(gt=0, le=1)],
    "top_k": Annotated[int, Field(ge=0)],
    "pad_to_multiple_of": Count | str,
    "log_level": Literal[tuple(trainer_log_levels)],
    "log_level_replica": Literal[tuple(trainer_log_levels)],
    "torch_compile_mode": Literal["default", "lite", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"],
    "train_sampling_strategy": Literal["random", "sequential", "group_by_length", "batch_rebalance"],
}
# Known names. The config class accepts any string; the trainer refuses unknown ones or silently takes a default.
NAMES: dict[tuple[type[TrainingArguments], str], Any] = {
    (SFTConfig, "loss_type"): Literal["nll", "dft"],
    (GRPOConfig, "loss_type"): Literal["grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo"],
    (GRPOConfig, "importance_sampling_level"): Literal["token", "sequence"],
    (GRPOConfig, "multi_objective_aggregation"): Literal["sum_then_normalize", "normalize_then_sum"],
    (GRPOConfig, "scale_rewards"): Literal["group", "batch", "none", True, False],
}
PAIRS = "the pipeline makes rows of question and answer itself, one problem each"
TOKENS = "the tokens are those of the model's tokenizer"
MEASURES = "the pipeline measures by itself"
PRIVATE = "tracking.push_to_hub=OWNER/NAME sends what a run ends with to the Hub"
# Fields that must have one value here, and why.
FIXED: dict[str, tuple[Any, str]] = {
    "packing": (False, PAIRS),
    "padding_free": (False, PAIRS),
    "assistant_only_loss": (False, PAIRS),
    "completion_only_loss": (True, PAIRS),
    "max_length": (None, "problems are taken whole, and refused where they do not fit the model"),
    "chat_template_path": (None, PAIRS),
    "eos_token": (None, TOKENS),
    "pad_token": (None, TOKENS),
    "eval_on_start": (False, MEASURES),
    "debug": ("", "it looks for NaN in masks too, which have none"),
    "cast_lm_head_to_fp32": (False, "answers are read through the model's own head; model.dtype sets its precision"),
    "push_to_hub": (False, PRIVATE),
    "hub_model_id": (None, PRIVATE),
    "hub_token": (None, PRIVATE),
    "log_completions_hub_repo": (None, PRIVATE),
}


def check_values(key: str, cls: type[TrainingArguments], values: dict[str, Any]) -> None:
    """Checks the values of a `trainer:` mapping whose keys have been checked.

    Args:
        key: The recipe key of the mapping, such as sft.trainer.

    Raises:
        RecipeError: A value of the wrong type, out of bounds, or one that does not work in the pipeline.
    """
    types = get_type_hints(cls)
    for name, value in values.items():
        if name in FIXED and value not in (None, FIXED[name][0]):
            only, why = FIXED[name]
            other = f", or set it to {only}" if only not in (None, "") else ""
            given = "" if "token" in name else f"={value!r}"  # a token may be a secret
            raise RecipeError(f"{key}.{name}{given} does not work here: {why}. Remove it{other}.")
        if value is None or (name == "max_steps" and value == -1):  # the default
            continue
        bound = NAMES.get((cls, name), BOUNDS.get(name))
        try:
            TypeAdapter(types[name]).validate_python(value, strict=True)
            if bound is not None:
                TypeAdapter(bound).validate_python(value)
        except ValidationError as error:
            raise RecipeError(f"{key}.{name}={value!r}: {error.errors()[0]['msg']}. Change the value.") from None


def config_values(key: str, cls: type[TrainingArguments], values: dict[str, Any]) -> dict[str, Any]:
    """The values to build the config class from.

    A null for a field that takes no null is dropped, which leaves the default. `~` in the path of a DeepSpeed config is
    expanded.

    Raises:
        RecipeError: There is no such DeepSpeed config.
    """
    types = get_type_hints(cls)
    kept = {name: value for name, value in values.items() if value is not None or type(None) in get_args(types[name])}
    path = kept.get("deepspeed")
    if isinstance(path, str):
        file = Path(expanded(path))
        if not file.is_file():
            raise RecipeError(f"{key}.deepspeed={path!r}: there is no such file. Give the path of a DeepSpeed config.")
        kept["deepspeed"] = str(file)
    return kept


def with_no(values: dict[str, Any]) -> dict[str, Any]:
    """The values with the word no where a strategy has it: YAML reads it as false."""
    return {name: "no" if value is False and name.endswith("_strategy") else value for name, value in values.items()}
