"""Weights in 4 or 8 bits by bitsandbytes: the frozen base that a LoRA is trained on (QLoRA, arXiv 2305.14314)."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel

from ...data.errors import reason
from ..latent.config import ModelError
from ..latent.engine.quantized import take_over
from ..recipe.schema import QuantizationSection
from ..system.processes import on_cpu


def check_bitsandbytes() -> str:
    """Makes sure that bitsandbytes is there and works on the device that stages run on, which is returned.

    Raises:
        ModelError: It is not installed, or it cannot quantise there.
    """
    if find_spec("bitsandbytes") is None:
        raise ModelError(
            "model.quantization needs the package bitsandbytes, which is not installed: pip install "
            "'neuralese[quantization]'"
        )
    device = "cpu" if on_cpu() else f"cuda:{torch.cuda.current_device()}"
    try:
        from bitsandbytes import functional

        functional.dequantize_4bit(*functional.quantize_4bit(torch.ones(64, 1, device=device)))
    except Exception as error:  # a library that does not fit the device fails in ways of every kind
        raise ModelError(
            f"model.quantization: bitsandbytes cannot quantise on {device}: {reason(error)}. Install a bitsandbytes "
            "for this device, run on another one (ACCELERATE_USE_CPU=true for the CPU), or remove model.quantization."
        ) from error
    return device


def loading_options(section: QuantizationSection, computes_in: str) -> dict[str, Any]:
    """Arguments of `from_pretrained` that quantise the linear layers, but not the head, while they are read.

    Args:
        computes_in: Name of the dtype that the model computes in.

    Raises:
        ModelError: See `check_bitsandbytes`; or it computes in float64, in which nothing can be quantised.
    """
    if computes_in == "float64":
        raise ModelError("dtype=float64 is refused with quantization: take float32 or bfloat16, or leave out one.")
    if section.bits == 8:
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=section.quant_type,
            bnb_4bit_use_double_quant=section.double_quant,
        )
    return {"quantization_config": config, "device_map": {"": check_bitsandbytes()}}


def as_frozen_base(model: PreTrainedModel, computes_in: str) -> None:
    """Makes a model that was just quantised one that is trained like any other, by a LoRA over it. In place.

    What says that it is quantised is removed from it. By that TRL would round everything that trains to bfloat16, the
    adapters and our modules among them, and Transformers would not move the model to its device.

    Raises:
        ModelError: It has no layers to quantise.
    """
    if take_over(model, getattr(torch, computes_in)) == 0:
        raise ModelError(
            f"{type(model).__name__} has no linear layers that bitsandbytes can quantise. Remove model.quantization."
        )
    model.hf_quantizer.remove_quantization_config(model)
    for name in ("is_loaded_in_4bit", "is_loaded_in_8bit"):
        model.__dict__.pop(name, None)
