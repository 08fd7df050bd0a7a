"""Checks of `model.lora` before anything is trained: its values, and the modules that it names.

PEFT looks the names up in the architecture, built without weights.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers import PretrainedConfig
from transformers.pytorch_utils import Conv1D

from ..model.build import architecture, build_config, build_tokenizer
from ..model.load import load_tokenizer
from ..recipe.load import RecipeError, nearest
from ..recipe.schema import ModelSection, Recipe

RESERVED = ("task_type", "peft_type", "inference_mode", "base_model_name_or_path", "revision", "auto_mapping")
BIASES = ("none", "all", "lora_only")
# Initialisations that leave the base weights as they are. Adapters are merged into these.
INITS = ("gaussian", "orthogonal")
# Keys that do not go with a quantised base.
UNQUANTIZED = ("use_dora", "target_parameters")
NAMES = ("target_modules", "modules_to_save", "exclude_modules")


def check_recipe_lora(recipe: Recipe) -> None:
    """Checks the LoRA of a recipe. Its modules are checked only if the model's config is not on the hub.

    Raises:
        UserError: See `check_lora_values` and `check_lora_modules`; or the model cannot be built.
    """
    options, model, quantized = recipe.model.lora, recipe.model, recipe.model.quantization is not None
    if options is None:
        return
    check_lora_values(options, quantized)
    config = config_at_hand(model)
    if config is not None:
        check_lora_modules(options, config, model.trust_remote_code, quantized)


def config_at_hand(model: ModelSection) -> PretrainedConfig | None:
    """The Transformers config of a recipe's model; None if it is on the hub.

    Raises:
        ModelError: The config of an untrained model is refused.
    """
    if model.config is not None:
        return build_config(model.config, build_tokenizer([]))
    if not Path(str(model.name_or_path)).is_dir():
        return None
    return load_tokenizer(str(model.name_or_path), model.trust_remote_code, model.gguf_file)[0]


def check_lora_values(options: dict[str, Any], quantized: bool = False) -> None:
    """Checks keys and values, without a model.

    Args:
        quantized: The base is quantised.

    Raises:
        RecipeError: An unknown or reserved key, or a value that no LoRA can have, or none over a quantised base.
    """
    known = [field.name for field in fields(LoraConfig)]
    for key, value in options.items():
        if key in RESERVED:
            raise RecipeError(f"model.lora.{key} is set by the pipeline. Remove the key.")
        if key not in known:
            raise RecipeError(f"unknown key 'model.lora.{key}'{nearest(key, known)}")
        if key in VALUES and not VALUES[key][0](value):
            raise RecipeError(f"model.lora.{key}={value!r} must be {VALUES[key][1]}.")
        if quantized and value and key in UNQUANTIZED:
            raise RecipeError(
                f"model.lora.{key} reads or changes the weights of the base, which model.quantization keeps in few "
                "bits. Remove one of the two."
            )
    try:
        LoraConfig(**options)
    except (TypeError, ValueError, ImportError) as error:
        raise RecipeError(f"model.lora: LoraConfig refuses these values: {' '.join(str(error).split())}") from error


def _is_names(value: Any) -> bool:
    names = value if isinstance(value, list) else [value]
    return value is None or (bool(names) and all(isinstance(name, str) and name for name in names))


VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "r": (lambda value: type(value) is int and value >= 1, "a whole number of at least 1"),
    "lora_alpha": (lambda value: type(value) in (int, float) and 0 < value < float("inf"), "a number above 0"),
    "lora_dropout": (lambda value: type(value) in (int, float) and 0 <= value < 1, "a share from 0 to below 1"),
    "bias": (lambda value: value in BIASES, f"one of {', '.join(BIASES)}"),
    "init_lora_weights": (
        lambda value: type(value) is bool or value in INITS,
        f"true, false, {' or '.join(INITS)}: other ways change the weights that the adapter is merged into",
    ),
    **dict.fromkeys(NAMES, (_is_names, "a list of module names, or a pattern")),
}


def check_lora_modules(
    options: dict[str, Any], config: PretrainedConfig, trust_remote_code: bool = False, quantized: bool = False
) -> None:
    """Checks the modules that a LoRA names against an architecture.

    Args:
        config: Transformers config of the model.
        quantized: The linear layers of the base are quantised, the head excepted.

    Raises:
        RecipeError: A name that fits no module, a module that cannot have a LoRA, or one with tied weights: an adapter
            on one of two modules would make them differ, and one merged matrix cannot be both. A quantised module that
            is to be trained whole.
    """
    model = architecture(config, trust_remote_code)
    for key in NAMES[:2]:
        for name in options[key] if isinstance(options.get(key), list) else []:
            if not any(fits(name, module) for module, _ in model.named_modules()):
                raise RecipeError(f"model.lora.{key} names {name!r}, which the model has not. {_modules(model)}")
    tied = _tied(model)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Other initialisations read the weights, which are not there.
            given = {**options, "task_type": "CAUSAL_LM", "init_lora_weights": True}
            adapted = get_peft_model(model, LoraConfig(**given))
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError, ImportError) as error:
        reason = textwrap.shorten(str(error), 200, placeholder=" …").rstrip(".")
        raise RecipeError(f"model.lora cannot be applied: {reason}. {_modules(model)}") from error
    base = adapted.get_base_model()
    for name, module in base.named_modules():
        if quantized and isinstance(module, ModulesToSaveWrapper) and module is not base.get_output_embeddings():
            _check_kept_in_full(name, module)
        if name in tied and isinstance(module, BaseTunerLayer | ModulesToSaveWrapper):
            raise RecipeError(
                f"model.lora adapts {name}, whose weights are also those of {tied[name]} (tied embeddings): an adapter "
                "moves the two apart, and merged they are one matrix again. Leave it out; from the "
                "curriculum on the embeddings of the latent tokens are trained without it."
            )


def _check_kept_in_full(name: str, wrapper: ModulesToSaveWrapper) -> None:
    inner = [type(module) for module in wrapper.original_module.modules()]
    if nn.Linear in inner or Conv1D in inner:
        raise RecipeError(
            f"model.lora.modules_to_save trains {name} whole, and model.quantization keeps its weights in few bits, in "
            "which nothing can be trained. Put its linear layers into target_modules, or remove model.quantization."
        )


def fits(name: str, module: str) -> bool:
    """Whether an entry of a list of names means the module with this full name. PEFT compares the last parts."""
    return module == name or module.endswith(f".{name}")


def _modules(model: nn.Module) -> str:
    linear = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if type(module) in (nn.Linear, Conv1D)}
    return f"The linear modules of {type(model).__name__} are {', '.join(sorted(linear))}."


def _tied(model: nn.Module) -> dict[str, str]:
    """Each module that shares a weight with another module -> the name of the other."""
    sharers: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            sharers.setdefault(id(parameter), []).append(name)
    shared = [names for names in sharers.values() if len(names) > 1]
    return {name: names[name == names[0]] for names in shared for name in names}
