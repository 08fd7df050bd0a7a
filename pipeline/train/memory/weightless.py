"""The model of a stage without its weights: modules and shapes as the stage trains them."""

from __future__ import annotations

import warnings
from copy import deepcopy
from typing import Any

from peft import get_peft_model
from torch import Tensor, nn
from transformers import TrainingArguments
from transformers.pytorch_utils import Conv1D

from ...latent.config import LatentConfig
from ...latent.latentize import latentize
from ...model.build import architecture
from ...recipe.schema import QuantizationSection, Recipe
from ..lora import ADAPTED, adapter_config, thin_frozen

# bitsandbytes' scales: one of 32 bits for each 64 weights of 4 bits, or with double_quant one of 8 bits and of these
# one of 32 bits for each 256; one of 32 bits for each row of weights of 8 bits.
BLOCK, SCALES = 64, 256


def weightless(recipe: Recipe, config: Any, section: LatentConfig, supervised: bool = False) -> Any:
    """A reasoner on the meta device.

    Args:
        config: Transformers config of the base model.
        section: The latent section that the stage trains with.
        supervised: With the module of the section's supervision.
    """
    config = deepcopy(config)
    text = config.get_text_config()
    text.vocab_size = max(text.vocab_size, max(section.token_ids) + 1)  # as `fit_embeddings`
    model = architecture(config, recipe.model.trust_remote_code)
    if recipe.model.attn_implementation is not None:
        model.set_attn_implementation(recipe.model.attn_implementation)
    return latentize(model, section, supervised)


def as_trained(model: Any, recipe: Recipe, args: TrainingArguments, token_ids: tuple[int, int, int] | None) -> Any:
    """The model as a Trainer has it: with the recipe's LoRA, in training mode, with gradient checkpointing.

    Args:
        token_ids: Those whose embedding rows are trained beside a LoRA; None: no rows.
    """
    if recipe.model.lora is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Other initialisations read the weights, which are not there.
            lora = adapter_config({**recipe.model.lora, "init_lora_weights": True}, model, token_ids)
            model = get_peft_model(model, lora)
        thin_frozen(model.get_base_model())
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable(args.gradient_checkpointing_kwargs)
    return model.train()


def weight_bytes(model: nn.Module, quantization: QuantizationSection | None) -> dict[int, int]:
    """Bytes that each weight of a model takes by itself (id of the weight -> bytes). Tied weights are one."""
    sizes = {id(weight): weight.numel() * weight.element_size() for weight in model.parameters()}
    if quantization is not None:
        head = id(_head(model))
        for name, module in model.named_modules():
            if type(module) in (nn.Linear, Conv1D) and id(module.weight) != head and not ADAPTED.search(name):
                sizes[id(module.weight)] = _quantized_bytes(module.weight, quantization)
    return sizes


def _head(model: Any) -> Tensor:
    return model.get_output_embeddings().weight


def _quantized_bytes(weight: Tensor, section: QuantizationSection) -> int:
    count = weight.numel()
    if section.bits == 8:
        return count + 4 * weight.size(0)
    blocks = count / BLOCK
    scales = blocks + 4 * blocks / SCALES if section.double_quant else 4 * blocks
    return int(count / 2 + scales)
