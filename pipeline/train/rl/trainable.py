"""`rl.trainable`: the weights that RL trains. The others are frozen for the stage, and saved with it as they are.

The key is a list of regular expressions, or `value_matrices`: the matrices W_V of all layers, and nothing else. Where a
model makes queries, keys and values by one matrix, its part for the values is trained.
"""

from __future__ import annotations

import difflib
import os
import re
import warnings
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from accelerate.utils import parse_flag_from_env
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.pytorch_utils import Conv1D

from ...latent.noise.values import value_modules
from ...latent.thoughts import build_source
from ...model.build import architecture
from ...recipe.load import RecipeError
from ...recipe.schema import VALUE_MATRICES, Recipe
from ...system.compat import is_sharded, num_weights
from ..lora import adapter_config
from ..lora_check import config_at_hand

CRITIC = "value_head"
PEFT_PREFIX = "base_model.model."
MOST_NAMES = 6
ZERO_STAGE = "ACCELERATE_DEEPSPEED_ZERO_STAGE"  # set by Accelerate's launcher


def train_only(model: Any, trainable: list[str] | str) -> None:
    """Freezes all weights that RL is not to train. The critic of PPO always trains.

    Args:
        model: As the trainer has it, with its LoRA.
        trainable: See the module; patterns are found anywhere in the name of a weight (re.search).

    Raises:
        RecipeError: A pattern that matches no weight that could train, or value matrices that cannot be trained alone.
    """
    if isinstance(trainable, str):
        chosen = _value_weights(model)
    else:
        chosen = {id(weight) for weight in _matching(model, trainable)}
    for name, weight in _named(model):
        if not _is_critic(name) and id(weight) not in chosen:
            weight.requires_grad_(False)


def weights_that_train(model: nn.Module) -> tuple[int, int]:
    """How many numbers of a model train, and how many there are. Of a matrix that trains in part all count."""
    sizes = [(num_weights(weight), weight.requires_grad) for weight in model.parameters()]
    return sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes)


def check_recipe_trainable(recipe: Recipe) -> None:
    """Checks `rl.trainable` of a recipe. Names are checked only if the model's config is not on the hub.

    Raises:
        UserError: See `check_trainable`.
    """
    config = config_at_hand(recipe.model)
    if config is not None:
        check_trainable(recipe, config)


def check_trainable(recipe: Recipe, config: PretrainedConfig) -> None:
    """Checks `rl.trainable` against an architecture, so that no error comes after the stages before RL.

    Args:
        config: Transformers config of the recipe's model.

    Raises:
        RecipeError: A pattern that matches no weight that could train, or value matrices that cannot be trained alone.
        ModelError: The model's value matrices were not found.
    """
    if recipe.rl is None or recipe.rl.trainable is None:
        return
    trainable, lora = recipe.rl.trainable, recipe.model.lora
    model: Any = architecture(config, recipe.model.trust_remote_code)
    size = model.config.get_text_config().hidden_size
    model.thought_source = build_source(recipe.latent.thought_source, recipe.latent.thought_options, size)
    if isinstance(trainable, str):
        if lora is not None:
            raise RecipeError(
                f"rl.trainable={VALUE_MATRICES} trains weights of the model, which model.lora keeps frozen. Remove one "
                "of the two, or name adapters by patterns, such as ['v_proj.*lora_']."
            )
        decay = recipe.rl.trainer.get("weight_decay") or 0.0
        fused = [module for module, places in value_modules(model) if places is not None]
        if fused and parse_flag_from_env("ACCELERATE_USE_DEEPSPEED") and os.environ.get(ZERO_STAGE) == "3":
            raise RecipeError(_cannot_be_split(fused[0]))
        if fused and decay > 0:
            raise RecipeError(
                f"rl.trainer.weight_decay={decay} would also shrink queries and keys, which this model makes by the "
                f"matrices of the values and rl.trainable={VALUE_MATRICES} keeps. Set it to 0."
            )
        return
    if lora is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Other initialisations read the weights, which are not there.
            adapter = adapter_config({**lora, "init_lora_weights": True}, model, (0, 1, 2))
            model = get_peft_model(model, adapter)
    if recipe.rl.step_tokens_weight == 0 or not any("supervision" in pattern for pattern in trainable):
        _matching(model, trainable)


def _named(model: Any) -> Iterable[tuple[str, nn.Parameter]]:
    """The weights by the names that the base model has for them. Tied weights have several."""
    for name, weight in model.named_parameters(remove_duplicate=False):
        yield name.removeprefix(PEFT_PREFIX) if isinstance(model, PeftModel) else name, weight


def _is_critic(name: str) -> bool:
    return CRITIC in name.split(".")


def _matching(model: Any, patterns: list[str]) -> list[nn.Parameter]:
    """The weights that match a pattern and are not frozen already, as the base under a LoRA is.

    Raises:
        RecipeError: A pattern matches none.
    """
    named = [(name, weight) for name, weight in _named(model) if not _is_critic(name)]
    free = {name: weight for name, weight in named if weight.requires_grad}
    found: list[nn.Parameter] = []
    for pattern in patterns:
        matched = [weight for name, weight in free.items() if re.search(pattern, name)]
        if not matched:
            frozen = [name for name, _ in named if re.search(pattern, name)]
            what = "matches no weight"
            if frozen:
                what = f"matches only weights that model.lora keeps frozen, such as {frozen[0]}"
            near = difflib.get_close_matches(pattern, free, n=MOST_NAMES, cutoff=0.0)
            raise RecipeError(
                f"rl.trainable: {pattern!r} {what}. Patterns are regular expressions that are looked for anywhere in a "
                f"name. Of the {len(free)} names of weights that can be trained these are nearest: {', '.join(near)}."
            )
        found += matched
    return found


# The part for the values of a matrix that makes queries and keys, too


def _value_weights(model: Any) -> set[int]:
    """Makes the value matrices ready to be trained alone.

    Returns:
        Their ids.
    """
    weights: set[int] = set()
    for module, places in value_modules(model):
        weight = module.weight
        if places is not None:
            if is_sharded(weight):
                raise RecipeError(_cannot_be_split(module))
            weight.register_hook(partial(_of_values, places, 1 if isinstance(module, Conv1D) else 0))
        weights.add(id(weight))
    return weights


def _cannot_be_split(module: Any) -> str:
    return (
        f"rl.trainable={VALUE_MATRICES} trains a part of each {type(module).__name__} that makes queries and keys too, "
        "and ZeRO-3 shards it. Launch with recipes/accelerate/ddp.yaml or zero2.yaml."
    )


def _of_values(places: Tensor, dim: int, grad: Tensor) -> Tensor:
    """The gradient of a weight with zeros outside `places` (v,) of its outputs, which are its dimension `dim`."""
    is_value = torch.zeros(grad.size(dim), dtype=torch.bool, device=grad.device)
    is_value[places.to(grad.device)] = True
    return torch.where(is_value if dim == 1 else is_value[:, None], grad, 0.0)
