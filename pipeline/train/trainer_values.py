"""Checks of values in a `trainer:` mapping that its config class accepts, but that would fail later in the run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import torch
from pydantic import Field, TypeAdapter, ValidationError
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.trainer_optimizer import is_optimizer_factory
from transformers.training_args import trainer_log_levels
from transformers.utils import is_liger_kernel_available
from trl import GRPOConfig, SFTConfig

from ...data.errors import reason
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
PRIVATE = "a run sends nothing to the hub; upload its final/ folder yourself"
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


def settled(key: str, cls: type[TrainingArguments], values: dict[str, Any]) -> dict[str, Any]:
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


def check_together(key: str, args: TrainingArguments) -> None:
    """Checks values that need another value, a library or a GPU, as the trainer would when it is made.

    Raises:
        RecipeError: Values that do not work here.
    """
    workers = args.dataloader_num_workers > 0
    for name, fits, need in (
        ("use_liger_kernel", is_liger_kernel_available(), "the library liger-kernel, which is not installed"),
        ("sync_ref_model", vars(args).get("beta"), "beta above 0, which makes a reference model"),
        ("activation_offloading", torch.cuda.is_available(), "a GPU"),
        ("dataloader_persistent_workers", workers, "dataloader_num_workers above 0"),
        ("dataloader_multiprocessing_context", workers, "dataloader_num_workers above 0"),
    ):
        if not fits and vars(args).get(name):
            raise RecipeError(f"{key}.{name}={vars(args)[name]!r} needs {need}. Remove it.")
    if args.save_strategy == "best":
        raise RecipeError(f"{key}.save_strategy=best does not work here: {MEASURES}. Take steps, epoch or no.")
    check_optimizer(key, args)


def check_optimizer(key: str, args: TrainingArguments) -> None:
    """Builds the optimizer and the learning-rate schedule over a tiny module, as training will over the model.

    Raises:
        RecipeError: A library is not installed, or the optimizer or the schedule refuses its settings.
    """
    try:
        optimizer = _optimizer(args)
    except Exception as error:  # each optimizer raises its own classes of errors
        raise RecipeError(f"{key}: the optimizer {args.optim.value} cannot be used: {_why(error)}.") from error
    steps = max(args.max_steps, 1)
    try:
        get_scheduler(
            args.lr_scheduler_type,
            optimizer=optimizer,
            num_warmup_steps=args.get_warmup_steps(steps),
            num_training_steps=steps,
            scheduler_specific_kwargs=args.lr_scheduler_kwargs,
        )
    except Exception as error:
        raise RecipeError(
            f"{key}: the schedule {args.lr_scheduler_type.value} cannot be used: {_why(error)}. lr_scheduler_kwargs "
            "holds its settings."
        ) from error


def _optimizer(args: TrainingArguments) -> torch.optim.Optimizer:
    """An optimizer over a tiny module, of the kind that training will have.

    An optimizer that needs modules of the real model is looked up, which needs its library, and replaced by AdamW.
    """
    model = torch.nn.Sequential()
    targets = args.optim_target_modules
    for name in [targets] if isinstance(targets, str) else targets or ["weights"]:
        model.add_module(re.sub(r"\W", "_", name), torch.nn.Linear(2, 2))
    try:
        made, settings = Trainer.get_optimizer_cls_and_kwargs(args, model)
    except ValueError:
        if targets is None:
            raise
        return torch.optim.AdamW(model.parameters())  # a pattern that the names of the tiny module do not match
    if is_optimizer_factory(made) or {"params", "model", "optimizer_dict"} & settings.keys():
        return torch.optim.AdamW(model.parameters())
    return made(model.parameters(), **settings)


def _why(error: Exception) -> str:
    return reason(error).rstrip(".")
