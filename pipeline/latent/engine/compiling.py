"""Decoder layers that torch.compile compiles one by one, for batches of any shape.

What is compiled is the layer. The loop over passes stays Python, and the cache is written outside of the compiled code
(`PassLayer.update`). Weight gradients of short passes are not collected (`DeferredWeightGrads`), which a compiler
cannot see.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from ....data.errors import reason
from ...system.compat import compile_once_for_all_layers, is_sharded
from ..config import ModelError

# Forms of a layer: with and without gradient, with and without a mask, for one column and for several, in training and
# evaluation. Beyond that many a layer would run without the compiler.
FORMS = 64
NO_SHARDS = (
    "ZeRO-3 gathers the weights of a layer in hooks, which a compiler cannot see. Take ZeRO-2 "
    "(recipes/accelerate/zero2.yaml), or remove model.compile."
)


def compile_layers(model: Any) -> None:
    """Has the decoder layers of a model compiled when they first run.

    Raises:
        ModelError: Nothing that compiles for the model's device, weights that ZeRO-3 shards, or a model whose layers
            are not known.
    """
    if any(map(is_sharded, model.parameters())):
        raise ModelError(f"model.compile: {NO_SHARDS}")
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise ModelError(
            f"{type(model).__name__} has no decoder layers that can be compiled one by one. Remove model.compile."
        )
    check_compiler(model.device.type)
    compile_once_for_all_layers()
    for layer in layers:
        layer.compile(dynamic=True, recompile_limit=FORMS)


@functools.cache
def check_compiler(device: str) -> None:
    """Compiles a sum of two numbers for a kind of device.

    Raises:
        ModelError: It fails.
    """
    try:
        torch.compile(torch.add)(torch.ones(2, device=device), 1.0)
    except Exception as error:  # whatever the compiler, its driver or its cache raise
        raise ModelError(
            f"model.compile: torch.compile does not work here ({reason(error)}). On a CPU it needs a C++ compiler "
            "(g++), on a GPU triton. Install it, or remove model.compile."
        ) from error
