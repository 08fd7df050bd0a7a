"""Checks of trainer arguments that depend on each other, on a library or on a GPU: the optimizer is built on trial."""

from __future__ import annotations

import re

import torch
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.trainer_optimizer import is_optimizer_factory
from transformers.utils import is_liger_kernel_available

from ...data.errors import reason
from ..recipe.load import RecipeError
from .trainer_values import MEASURES


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
    _check_optimizer(key, args)


def _check_optimizer(key: str, args: TrainingArguments) -> None:
    """Builds the optimizer and the learning-rate schedule over a tiny module, as training will over the model.

    Raises:
        RecipeError: A library is not installed, or the optimizer or the schedule refuses its settings.
    """
    try:
        optimizer = _optimizer(args)
    except Exception as error:  # each optimizer raises its own classes of errors
        raise RecipeError(f"{key}: the optimizer {args.optim.value} cannot be used: {reason(error)}.") from error
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
            f"{key}: the schedule {args.lr_scheduler_type.value} cannot be used: {reason(error)}. lr_scheduler_kwargs "
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
