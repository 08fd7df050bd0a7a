"""Frozen linear layers whose weights bitsandbytes keeps in 4 or 8 bits.

y = x Ŵᵀ + b, where Ŵ is the dequantised weight: made anew for each product, kept by none (QLoRA, arXiv 2305.14314,
eqn. 5). The forwards of bitsandbytes' own layers (0.50) are not taken, because training and sampling would differ: in
evaluation on a CPU `Linear8bitLt` rounds its inputs to 8 bits, and on one with AVX512-BF16 `Linear4bit` packs its
weights anew, computes in bfloat16, and passes no gradient on from then on. With one product for all, a row does not
depend on its batch, and rollouts have the log-probs of the training forward.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D


class _Product(torch.autograd.Function):
    """x (..., in) -> x Ŵᵀ (..., out). Only x gets a gradient, for which the weight is dequantised again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantizedLinear) -> Tensor:
        ctx.layer, ctx.dtype = layer, x.dtype
        weight = layer.full_weight()
        # Under autocast the product itself chooses the dtype of both.
        return F.linear(x, weight if torch.is_autocast_enabled(x.device.type) else weight.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return (grad @ ctx.layer.full_weight().to(grad.dtype)).to(ctx.dtype), None


class QuantizedLinear:
    """Over `bitsandbytes.nn.Linear4bit` or `Linear8bitLt`: the forward of this file. See `take_over`."""

    in_features: int
    out_features: int
    weight: Any
    bias: Tensor | None
    source_cls: type  # the class of the layer that was quantised; Transformers notes it

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        product = _Product.apply(x, self)
        return product if self.bias is None else product + self.bias.to(product.dtype)

    def full_weight(self) -> Tensor:
        """Ŵ (out, in)."""
        from bitsandbytes import functional

        if hasattr(self.weight, "quant_state"):
            flat = functional.dequantize_4bit(self.weight.data, self.weight.quant_state)
            return flat.view(self.out_features, self.in_features)
        return functional.int8_vectorwise_dequant(self.weight.data, self.weight.SCB)


@functools.cache
def _quantized_class(base: Any) -> Any:
    return type(base.__name__, (QuantizedLinear, base), {"__module__": base.__module__, "__doc__": base.__doc__})


def take_over(model: nn.Module, dtype: torch.dtype) -> int:
    """Gives the quantised layers of a model, in place, the forward of this file.

    Args:
        dtype: What 4-bit weights are dequantised to: the dtype of the products.

    Returns:
        How many there are.
    """
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    layers: list[Any] = [module for module in model.modules() if isinstance(module, Linear4bit | Linear8bitLt)]
    for layer in layers:
        if isinstance(layer, Linear4bit):
            state = layer.weight.quant_state
            # Read as one row: on a CPU rows that are no multiple of a block of 64 weights take scales of other blocks.
            state.dtype, state.shape = dtype, torch.Size([state.shape.numel()])
        kind: Any = type(layer)
        layer.__class__ = _quantized_class(kind)
    return len(layers)


def is_quantized(model: nn.Module) -> bool:
    """Whether layers of a model are quantised."""
    return any(isinstance(module, QuantizedLinear) for module in model.modules())


def full_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model with dequantised weights in place of quantised ones, as the unquantised model names them."""
    state = dict(model.state_dict())
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLinear):
            weight = module.full_weight()
            state[f"{name}.weight"] = weight.t() if issubclass(module.source_cls, Conv1D) else weight
    return state


def full_size(model: nn.Module) -> int:
    """Bytes of a model's weights where quantised ones are float32."""
    size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    for module in model.modules():
        if isinstance(module, QuantizedLinear):
            size += 4 * module.in_features * module.out_features - module.weight.numel() * module.weight.element_size()
    return size
