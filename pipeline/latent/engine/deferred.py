"""Weight gradients of many short passes, computed once.

A pass over one column moves little data through a linear layer, but autograd gives its weight a whole gradient matrix
per pass and adds them up: for k latents, k extra matrices to write, and k times three to move for the sums. Here the
output gradients of the passes are collected instead (a few rows each), and the weight gets one gradient from all rows
at the end: dW = dYᵀ X over all passes. The sum is the same, in another order.

The rows travel through autograd as the gradient of a tensor of slots, so that hooks, partial and repeated backward
passes see nothing unusual.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

from ...system.compat import is_sharded


class _Slots(torch.autograd.Function):
    """(weight, bias) -> (R, out). Only its gradient matters: it is the output gradients of R rows."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor | None, layer: _DeferredLinear) -> Tensor:
        ctx.layer = layer
        return torch.zeros((), dtype=layer.dtype, device=weight.device).expand(sum(layer.sizes), layer.out_features)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        layer = ctx.layer
        used = [index for index in range(len(layer.sizes)) if index in layer.inputs]
        if len(used) < len(layer.sizes):  # a pass from which no gradient came
            parts = grad.split(layer.sizes)
            grad = torch.cat([parts[index] for index in used])
        inputs = torch.cat([layer.inputs[index] for index in used])  # (R, in)
        layer.inputs.clear()
        weight = inputs.t() @ grad if layer.is_transposed else grad.t() @ inputs
        bias = grad.sum(0) if ctx.needs_input_grad[1] else None
        return weight, bias, None


class _Linear(torch.autograd.Function):
    """x (..., in) -> x Wᵀ + b (..., out). The weight gets its gradient through the slot (rows, out)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slot: Tensor, layer: _DeferredLinear, index: int) -> Tensor:
        weight, bias = layer.weight_and_bias
        ctx.save_for_backward(x, weight)
        ctx.layer, ctx.index = layer, index
        return F.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        x, weight = ctx.saved_tensors
        # By index: a second backward through the same graph writes the same.
        ctx.layer.inputs[ctx.index] = x.detach().flatten(0, -2)
        return grad @ weight if ctx.needs_input_grad[0] else None, grad.flatten(0, -2), None, None


class _DeferredLinear:
    """One linear layer during the passes of one forward."""

    def __init__(self, module: Any, pass_rows: Sequence[int]) -> None:
        self.module, self.is_transposed = module, type(module) is Conv1D
        shape = module.weight.shape[::-1] if self.is_transposed else module.weight.shape
        self.out_features, in_features = shape
        device = module.weight.device.type
        is_autocast = torch.is_autocast_enabled(device)
        self.dtype = torch.get_autocast_dtype(device) if is_autocast else module.weight.dtype
        # Where a pass has more rows than the layer has inputs, keeping them would cost more than a gradient matrix.
        self.slot_of: dict[int, int] = {}
        for number, rows in enumerate(pass_rows):
            if rows <= in_features:
                self.slot_of[number] = len(self.slot_of)
        self.sizes = [pass_rows[number] for number in self.slot_of]
        self.inputs: dict[int, Tensor] = {}

    @functools.cached_property
    def weight_and_bias(self) -> tuple[Tensor, Tensor | None]:
        """Weight (out, in) and bias in the dtype of the computation, outside autograd."""
        weight, bias = self.module.weight.detach(), self.module.bias
        weight = (weight.t() if self.is_transposed else weight).to(self.dtype)
        return weight, bias if bias is None else bias.detach().to(self.dtype)


class DeferredWeightGrads:
    """Collects the weight gradients of a trunk's linear layers over several passes.

    Attributes:
        current: Number of the pass that runs.
    """

    def __init__(self, trunk: Any, pass_rows: Sequence[int]) -> None:
        """
        Args:
            pass_rows: Rows times columns of each pass.
        """
        self.current = 0
        self.layers = [_DeferredLinear(module, pass_rows) for module in trunk.modules() if _can_defer(module)]
        # Not kept by the layers, which the graph holds on to: that would be a cycle no garbage collector sees.
        self.slots: dict[_DeferredLinear, Sequence[Tensor]] = {}
        self.ran: set[_DeferredLinear] = set()

    @contextmanager
    def during(self, number: int) -> Iterator[None]:
        """Replaces the `forward` of the layers while pass `number` runs."""
        self.current = number
        self.ran.clear()
        plain = [layer.module.forward for layer in self.layers]
        for layer, forward in zip(self.layers, plain, strict=True):
            layer.module.forward = functools.partial(self._run, layer, forward)
        try:
            yield
        finally:
            for layer in self.layers:
                del layer.module.forward

    def _run(self, layer: _DeferredLinear, plain: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        slot = layer.slot_of.get(self.current)
        # A layer that runs twice in a pass, or on a part of the rows, takes the ordinary way.
        if slot is None or layer in self.ran or x.shape[:-1].numel() != layer.sizes[slot]:
            return plain(x)
        self.ran.add(layer)
        if layer not in self.slots:
            self.slots[layer] = _Slots.apply(layer.module.weight, layer.module.bias, layer).split(layer.sizes)
        return _Linear.apply(x.to(layer.dtype), self.slots[layer][slot], layer, slot)


def _can_defer(module: Any) -> bool:
    """Ordinary linear layers that train, whose weight is whole (ZeRO-3 shards it) and whose forward is their own."""
    return (
        type(module) in (nn.Linear, Conv1D)
        and module.weight.requires_grad
        and not is_sharded(module.weight)
        and "forward" not in vars(module)
    )
