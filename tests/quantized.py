"""Models over a base in 4 or 8 bits, what their weights stand for, and the tiny recipe for them."""

from runs import tiny

from neuralese.pipeline import load_reasoner
from neuralese.pipeline.latent.engine.quantized import QuantizedLinear, full_state_dict
from neuralese.pipeline.recipe.schema import QuantizationSection

TARGETS = {"gpt2": "[c_attn, c_fc, c_proj]", "llama": "[q_proj, v_proj, down_proj]"}
KINDS = {
    "nf4": {"bits": 4},
    "fp4": {"bits": 4, "quant_type": "fp4", "double_quant": False},
    "int8": {"bits": 8},
}


def quantized(folder, kind, **options):
    return load_reasoner(folder, quantization=QuantizationSection(**KINDS[kind]), **options)


def layers(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantizedLinear)}


def dequantized(folder, kind, **options):
    """An ordinary reasoner whose weights are what those of the quantised one stand for."""
    reasoner = load_reasoner(folder, **options)
    reasoner.model.load_state_dict(full_state_dict(quantized(folder, kind).model), strict=False)
    return reasoner


def recipe(folder, name="gpt2", *overrides):
    base = [
        f"model.name_or_path={folder / name}",
        "model.config=null",
        f"model.lora={{r: 4, target_modules: {TARGETS[name]}}}",
    ]
    return tiny(folder, *base, "tracking.wandb=false", *overrides)
