"""Floating-point operations of training, and how many a GPU can do: for the model FLOPs utilisation (MFU).

As in PaLM (arXiv 2204.02311, appendix B): a weight costs 2 operations a position in a forward pass and 4 in a backward
pass, of which 2 are for its own gradient. Recomputed activations count nothing. Unlike there the products of attention
are left out, frozen weights have no gradient of their own, and the head counts where it is computed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..latent.config import LatentConfig
from ..latent.engine.parallel import Refinement
from ..latent.engine.quantized import QuantizedLinear
from ..system.compat import is_sharded, num_weights
from .watched import Number

# Name of the device -> 10^12 operations a second of dense products in float32, TF32 and bfloat16 (summed in float32).
# From NVIDIA's data sheets of each; of the RTX cards, from the whitepapers of Ada and Ampere GA102.
PEAKS = {
    r"NVIDIA H200": (67.0, 494.5, 989.5),
    r"NVIDIA H200 NVL": (60.0, 417.5, 835.5),
    r"NVIDIA H100 80GB HBM3": (67.0, 494.5, 989.5),  # SXM
    r"NVIDIA H100 NVL": (60.0, 417.5, 835.5),
    r"NVIDIA H100 PCIe": (51.0, 378.0, 756.0),
    r"NVIDIA A100-(SXM4|PCIE)-\d+GB|NVIDIA A100 80GB PCIe": (19.5, 156.0, 312.0),
    r"NVIDIA L40S": (91.6, 183.0, 362.0),
    r"NVIDIA L4": (30.3, 60.0, 121.0),
    r"NVIDIA GeForce RTX 4090": (82.6, 82.6, 165.2),
    r"NVIDIA GeForce RTX 3090": (35.6, 35.6, 71.0),
}
EXPERTS = {"num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"}


def peak_flops(name: str, dtype: str, tf32: bool) -> float | None:
    """Operations a second that a device can do at most; None where that is not known, as of a part of a GPU (MIG).

    Args:
        name: As torch gives it.
        dtype: What the model computes in.
        tf32: Products of float32 are computed in TF32.
    """
    column = {"float32": 1 if tf32 else 0, "bfloat16": 2}.get(dtype)
    for pattern, peaks in PEAKS.items():
        if column is not None and re.fullmatch(pattern, name):
            return peaks[column] * 1e12
    return None


def device_peak(device: torch.device, dtype: str) -> float | None:
    """`peak_flops` of a device; None of a CPU."""
    if device.type != "cuda":
        return None
    return peak_flops(torch.cuda.get_device_name(device), dtype, torch.backends.cuda.matmul.fp32_precision == "tf32")


@dataclass(frozen=True)
class Cost:
    """What a reasoner computes for a position.

    Attributes:
        trunk: Weights of the matrices of the trunk, by which every position is multiplied. Embeddings are looked up.
        trained_trunk: Those of them that are trained, and so have a gradient of their own.
        head: Weights of the output head.
        trained_head: The same number, or 0 where it is frozen.
        latent_passes: Passes over each latent.
    """

    trunk: int
    trained_trunk: int
    head: int
    trained_head: int
    latent_passes: int = 1

    @classmethod
    def of(cls, model: Any) -> Cost | None:
        """Of a latent reasoner, unwrapped; None of a mixture of experts, where a position meets some of the weights."""
        if EXPERTS & model.config.get_text_config().to_dict().keys():
            return None
        trunk, head = model.base_model, model.get_output_embeddings().weight
        looked_up = {id(module.weight) for module in trunk.modules() if isinstance(module, nn.Embedding)}
        sizes = [
            (_size(module, weight), weight.requires_grad)
            for module in trunk.modules()
            for weight in module.parameters(recurse=False)
            if id(weight) not in looked_up and _dimensions(weight) > 1
        ]
        size = _size(None, head)
        return cls(
            trunk=sum(size for size, _ in sizes),
            trained_trunk=sum(size for size, is_trained in sizes if is_trained),
            head=size,
            trained_head=size if head.requires_grad else 0,
            latent_passes=latent_passes(model.latent_config),
        )

    def flops(self, tokens: Number, latents: Number, scored: Number, backward: bool) -> Number:
        """Operations of a forward pass, and of the backward pass where there is one.

        Args:
            tokens: Positions of tokens in the trunk.
            latents: Latents. Where all are made at once, each is passed over several times.
            scored: Positions that the head is computed at.
        """
        positions = tokens + latents * self.latent_passes
        trunk, head = (2 * self.trunk, 2 * self.head)
        if backward:
            trunk, head = 2 * trunk + 2 * self.trained_trunk, 2 * head + 2 * self.trained_head
        return _double(positions) * trunk + _double(scored) * head


def latent_passes(config: LatentConfig) -> int:
    """How often a latent runs through the trunk: once, or in each round and once more with the text behind it."""
    refinement = Refinement.of(config, config.num_latents)
    return 1 if refinement is None else refinement.rounds + 1


def _double(number: Number) -> Number:
    return number.double() if isinstance(number, Tensor) else float(number)


def _dimensions(weight: Any) -> int:
    return len(weight.ds_shape) if is_sharded(weight) else weight.dim()


def _size(module: nn.Module | None, weight: Any) -> int:
    """Elements of a weight, also of one in few bits or in shards."""
    if isinstance(module, QuantizedLinear) and weight is module.weight:
        return module.in_features * module.out_features
    return num_weights(weight)
