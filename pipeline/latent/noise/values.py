"""The value matrices of a model, their singular vectors, and the shift that noise gives to values (see `svp`)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ...system.compat import is_sharded
from ..config import ModelError, key_value_heads
from ..engine.precision import precise
from ..engine.sharded_weights import whole

# Names that architectures give to the module that makes values, alone or together with queries and keys.
ALONE, GPT2, NEOX, FUSED = "v_proj", "c_attn", "query_key_value", "qkv_proj"
BASES = "_value_bases"


@dataclass(frozen=True)
class ValueBases:
    """Singular vectors of the value matrices.

    Attributes:
        vectors: (v, v) of each layer, one in a column, on the side of the values; v: key-value heads x head size.
        biases: (v,) of each layer, as of then.
    """

    vectors: list[Tensor]
    biases: list[Tensor]

    @property
    def width(self) -> int:
        """Singular values of all layers together."""
        return sum(vectors.size(1) for vectors in self.vectors)


@dataclass(frozen=True)
class ValueShift:
    """Moves the values of latents, or of all that stands before the answer, by the draws of a rollout.

    Attributes:
        scale: Of the noise, relative to each singular value.
        biases: (v,) of each layer, with gradient; None: those of the bases.
        moves_question: The values of the question move, too, and those of text between latents.
        epsilon: (B, Q or 1, W) draws for the columns of a pass; W holds the draws of all layers, the first layer first.
        is_moved: (B, Q) columns whose values move.
    """

    bases: ValueBases
    scale: float
    biases: list[Tensor] | None = None
    moves_question: bool = False
    epsilon: Tensor | None = None
    is_moved: Tensor | None = None

    def columns(self, is_latent: Tensor) -> Tensor:
        """(B, S) the columns whose values move, of rows with latents (B, S): these, or all up to a row's last one."""
        return is_latent.flip(1).cumsum(1).flip(1) > 0 if self.moves_question else is_latent

    def at(self, epsilon: Tensor, is_moved: Tensor) -> ValueShift:
        """The shift of one pass."""
        return replace(self, epsilon=epsilon, is_moved=is_moved)

    def __call__(self, layer: int, values: Tensor) -> Tensor:
        """The values (B, h, Q, e) of a layer, moved where they are to move."""
        assert self.epsilon is not None and self.is_moved is not None
        vectors, bias = self.bases.vectors[layer], (self.biases or self.bases.biases)[layer]
        begin = sum(other.size(1) for other in self.bases.vectors[:layer])
        epsilon = self.epsilon[..., begin : begin + vectors.size(1)]
        flat = precise(values.transpose(1, 2).flatten(2))  # (B, Q, h·e)
        moved = ((flat - bias) @ vectors * (self.scale * epsilon)) @ vectors.T
        moved = (flat + moved).to(values.dtype).unflatten(2, (values.size(1), values.size(3))).transpose(1, 2)
        return torch.where(self.is_moved[:, None, :, None], moved, values)


@torch.no_grad()
def value_bases(model: Any, renew: bool = False) -> ValueBases:
    """The singular vectors of a model's value matrices, computed once and kept.

    A replay needs the vectors that its rollouts were drawn with, also after the weights have changed.

    Args:
        renew: Compute them anew from the present weights.

    Raises:
        ModelError: The model's value matrices were not found.
    """
    if renew or BASES not in model.__dict__:
        vectors, biases = [], []
        for weight, bias in _value_matrices(model):
            vectors.append(torch.linalg.svd(precise(weight), full_matrices=False).Vh.T.contiguous())
            biases.append(precise(weight.new_zeros(weight.size(1)) if bias is None else bias).clone())
        model.__dict__[BASES] = ValueBases(vectors, biases)
    return model.__dict__[BASES]


def value_biases(model: Any) -> list[Tensor]:
    """The present biases (v,) of each layer's values, with gradient, so that noise moves what the matrices give alone.

    Where ZeRO-3 shards them, those of the latest rollouts, as constants.
    """
    biases = []
    for (module, places), then in zip(value_modules(model), value_bases(model).biases, strict=True):
        bias = _base_layer(module).bias
        if bias is None or is_sharded(bias):
            biases.append(then)
        else:
            biases.append(precise(bias if places is None else bias[places.to(bias.device)]))
    return biases


@contextlib.contextmanager
def keeping_bases(model: Any) -> Iterator[None]:
    """Restores the singular vectors at its end. Rollouts that wait to be replayed were drawn with them."""
    kept = model.__dict__.get(BASES)
    try:
        yield
    finally:
        if kept is not None:
            model.__dict__[BASES] = kept


def share_bases(model: Any, other: Any) -> None:
    """Gives the singular vectors of `model`, if it has any, to another model such as a reference."""
    if BASES in model.__dict__:
        other.__dict__[BASES] = model.__dict__[BASES]


def value_modules(model: Any) -> list[tuple[Any, Tensor | None]]:
    """The module of each layer that makes its values, and the places (v,) of these among its outputs; None: all are.

    Raises:
        ModelError: The model's value matrices were not found.
    """
    trunk = model.base_model
    config = trunk.config.get_text_config()
    modules = [
        (name.rsplit(".", 1)[-1], module)
        for name, module in trunk.named_modules()
        if name.rsplit(".", 1)[-1] in (ALONE, GPT2, NEOX, FUSED)
    ]
    if len(modules) != config.num_hidden_layers:
        raise ModelError(
            f"What works on value matrices finds {len(modules)} of them in the {config.num_hidden_layers} layers of "
            f"{type(model).__name__}. Choose a noise on the latents, such as gaussian:0.1, and name weights in "
            "rl.trainable by patterns."
        )
    heads, (kv_heads, head_size) = config.num_attention_heads, key_value_heads(config)
    places: dict[str, Tensor | None] = {ALONE: None}
    outputs = torch.arange((heads + 2 * kv_heads) * head_size)
    places[GPT2] = places[FUSED] = outputs[-kv_heads * head_size :]  # queries, keys, values
    # For each head its query, key and value.
    places[NEOX] = torch.arange(3 * heads * head_size).view(heads, 3, head_size)[:, 2].flatten()
    return [(module, places[name]) for name, module in modules]


def _value_matrices(model: Any) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Weight (d, v) and bias (v,) of each layer's values, v = x @ weight + bias; adapters are added."""
    for module, places in value_modules(model):
        with whole(list(module.parameters())):
            weight, bias = _linear(module)
            if places is not None:
                places = places.to(weight.device)
                weight, bias = weight[:, places], bias[places] if bias is not None else None
            yield weight, bias


def _linear(module: Any) -> tuple[Tensor, Tensor | None]:
    """Weight (in, out) and bias of a linear layer, or of one under a LoRA with what the LoRA adds."""
    base = _base_layer(module)
    weight, bias = base.weight, base.bias
    for adapter in getattr(module, "active_adapters", ()) if not getattr(module, "disable_adapters", False) else ():
        weight = weight + module.get_delta_weight(adapter)
    return (weight.T if isinstance(base, nn.Linear) else weight), bias  # Transformers' Conv1D is (in, out) already


def _base_layer(module: Any) -> Any:
    return module.get_base_layer() if hasattr(module, "get_base_layer") else module
