"""How a loaded model becomes a reasoner: its class, its latent section, and the modules that section asks for."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from ..system.compat import find_file, keeps_a_recurrent_state
from .config import SECTION, LatentConfig, ModelError
from .engine.masks import attention_kinds
from .engine.sharded_weights import whole
from .mixin import LatentMixin
from .supervision import build_supervision
from .thoughts import build_source, embedding_rms

# Modules of our own on a reasoner. Their weights are saved with the model's; plain Transformers classes ignore them.
MODULES = ("thought_source", "stop_head", "supervision", "value_head")
RECORDS_DTYPE = 4  # version of the latent section that was the first to say what is computed in


@functools.cache
def _latent_class(base: Any) -> Any:
    # The name is kept: Transformers writes it to config.json, and plain Auto classes look it up there.
    return type(base.__name__, (LatentMixin, base), {"__module__": base.__module__, "__doc__": base.__doc__})


def latentize(model: PreTrainedModel, config: LatentConfig, supervised: bool = False) -> PreTrainedModel:
    """Makes a loaded causal language model a latent reasoner, in place. New modules have fresh weights.

    Args:
        supervised: Also build the module of the section's supervision, which only training and reading thoughts need.

    Raises:
        ModelError: The architecture cannot be fed embeddings, or the section asks for what does not exist.
    """
    size = model.config.get_text_config().hidden_size
    source = build_source(config.thought_source, config.thought_options, size)
    if not isinstance(model, LatentMixin):
        _check_architecture(model)
        model.__class__ = _latent_class(type(model))  # type: ignore[arg-type]
    model.latent_config = config
    model.config.latent = config.to_dict()
    model.thought_source = source.to(device=model.device, dtype=model.dtype)
    model.stop_head = nn.Linear(size, 1).to(device=model.device, dtype=model.dtype) if config.stop_head else None
    model.supervision = model.value_head = None
    if supervised:
        supervision = build_supervision(model, config.supervision, config.supervision_options)
        model.supervision = supervision.to(model.device) if supervision is not None else None
    return model


def load_modules(model: PreTrainedModel, name: str) -> None:
    """Loads the weights of our own modules from the checkpoint that the model came from, where it holds them.

    Raises:
        ModelError: The checkpoint's weights have other shapes than its section says.
    """
    prefixes = tuple(f"{module}." for module in MODULES)
    wanted = {key: weight for key, weight in model.named_parameters() if key.startswith(prefixes)}
    if not wanted:
        return
    found = {key: value for key, value in _saved(name, prefixes) if key in wanted}
    try:
        with whole(wanted.values(), change=True):
            model.load_state_dict(found, strict=False)
    except RuntimeError as error:
        raise ModelError(f"The weights of {name!r} do not fit its latent section: {error}") from error


def has_supervision(name: str) -> bool:
    """Whether a checkpoint keeps weights of its supervision, as that of the curriculum does and that of RL does not."""
    return any(True for _ in _saved(name, ("supervision.",)))


def _saved(name: str, prefixes: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
    """Tensors of a checkpoint folder or hub id whose names begin with one of the prefixes."""
    single = find_file(name, SAFE_WEIGHTS_NAME)
    index = find_file(name, SAFE_WEIGHTS_INDEX_NAME)
    files: set[str] = {single} if single else set()
    if index is not None:
        shards = json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"]
        files |= {
            str(find_file(name, shard, required=True)) for key, shard in shards.items() if key.startswith(prefixes)
        }
    for file in sorted(files):
        with safe_open(file, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 (no mapping)
                if key.startswith(prefixes):
                    yield key, tensors.get_tensor(key)


def _check_architecture(model: PreTrainedModel) -> None:
    name = type(model).__name__
    if model.config.is_encoder_decoder:
        raise ModelError(f"{name} is an encoder-decoder model. Latents need a decoder-only causal language model.")
    accepted = inspect.signature(model.base_model.forward).parameters
    needed = ("inputs_embeds", "past_key_values", "attention_mask", "position_ids")
    missing = [key for key in needed if key not in accepted]
    if missing:
        raise ModelError(
            f"{name} does not accept {missing} in its forward, so vectors cannot be fed back to it. "
            "Choose a decoder-only model with inputs_embeds and a KV cache, such as GPT-2, Llama or Qwen."
        )
    if keeps_a_recurrent_state(model):
        raise ModelError(
            f"{name} keeps a recurrent state, which the padding between latents would disturb. "
            "Choose a model with attention only, such as GPT-2, Llama or Qwen."
        )
    attention_kinds(model.base_model.config.get_text_config())


def measure_embedding_rms(model: PreTrainedModel) -> None:
    """Refreshes `embedding_rms` of the latent section from the input embeddings as they are now."""
    model.set_latent_config(embedding_rms=embedding_rms(model.get_input_embeddings()))


def latent_section(config: Any) -> LatentConfig | None:
    """The latent section of a model's config, or None where it has none."""
    section = getattr(config, SECTION, None)
    if section is None:
        return None
    found = LatentConfig.from_dict(section)
    if section["version"] < RECORDS_DTYPE and str(config.dtype).removeprefix("torch.") == "bfloat16":
        return replace(found, compute_dtype="bfloat16")  # earlier releases computed in the dtype of the weights
    return found
