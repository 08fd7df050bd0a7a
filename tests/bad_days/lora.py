"""Low-rank adapters, and the precision that stages compute in."""

from neuralese.pipeline.latent.engine import compiling
from neuralese.pipeline.model import quantization

from .day import TINY, BadDay

FINAL = "{finished}/sft/final"


def lora(what, options, sees):
    return BadDay(what, ["check", TINY, f"model.lora={options}"], sees)


def over_quantized(what, sees, quantization="bits: 4", adapters="target_modules: [c_attn]", before=None):
    model = f"model={{name_or_path: {FINAL}, lora: {{{adapters}}}, quantization: {{{quantization}}}}}"
    return BadDay(what, ["check", TINY, model], sees, before=before)


def launched(what, variable, value, asked):
    command = ["train", TINY, "output_dir={folder}"]
    return BadDay(
        what,
        command,
        f"The launcher asks for {asked}",
        before=lambda scene: scene.monkeypatch.setenv(variable, value),
        after=nothing_begun,
    )


def without_a_compiler(scene):
    def fails(*_):
        raise RuntimeError("Failed to find C++ compiler. Please specify via CXX environment variable.")

    compiling.check_compiler.cache_clear()
    scene.monkeypatch.setattr(compiling.torch, "compile", lambda function: fails)


def nothing_begun(scene):
    assert not list(scene.folder.iterdir())


DAYS = [
    lora(
        "a LoRA on modules that the model has not",
        "{target_modules: [q_proj]}",
        "model.lora.target_modules names 'q_proj', which the model has not. The linear modules of GPT2LMHeadModel are "
        "c_attn, c_fc, c_proj, lm_head.",
    ),
    BadDay(
        "the same with a model in a folder",
        ["check", TINY, f"model={{name_or_path: {FINAL}, lora: {{target_modules: [c_attn, q_proj]}}}}"],
        "names 'q_proj', which the model has not",
    ),
    lora(
        "a LoRA with a pattern that fits nothing",
        "{target_modules: '.*q_proj'}",
        "model.lora cannot be applied: Target modules .*q_proj not found",
    ),
    lora(
        "a LoRA on a layer norm",
        "{target_modules: [ln_f]}",
        "model.lora cannot be applied: Target module LayerNorm",
    ),
    lora(
        "a LoRA on tied embeddings",
        "{target_modules: [c_attn, wte]}",
        "model.lora adapts transformer.wte, whose weights are also those of lm_head (tied embeddings)",
    ),
    lora(
        "a LoRA on a tied head",
        "{target_modules: [lm_head]}",
        "model.lora adapts lm_head, whose weights are also those of transformer.wte (tied embeddings)",
    ),
    lora(
        "tied embeddings among modules_to_save",
        "{target_modules: [c_attn], modules_to_save: [wte]}",
        "model.lora adapts transformer.wte",
    ),
    lora(
        "modules_to_save that the model has not",
        "{target_modules: [c_attn], modules_to_save: [score]}",
        "model.lora.modules_to_save names 'score', which the model has not",
    ),
    lora("a LoRA of rank 0", "{r: 0}", "model.lora.r=0 must be a whole number of at least 1"),
    lora("a rank in quotes", '{r: "8"}', "model.lora.r='8' must be a whole number of at least 1"),
    lora("a lora_alpha below 0", "{lora_alpha: -16}", "model.lora.lora_alpha=-16 must be a number above 0"),
    lora("a lora_dropout of 1", "{lora_dropout: 1.0}", "model.lora.lora_dropout=1.0 must be a share from 0 to below 1"),
    lora("an unknown bias", "{bias: some}", "model.lora.bias='some' must be one of none, all, lora_only"),
    lora(
        "a LoRA that begins by changing the base",
        "{init_lora_weights: pissa}",
        "other ways change the weights that the adapter is merged into",
    ),
    lora("a mistyped LoRA key", "{target_module: [c_attn]}", "unknown key 'model.lora.target_module', did you mean"),
    BadDay("half precision", ["check", TINY, "model.dtype=float16"], "'float16' is nothing that stages train in"),
    BadDay(
        "bf16 in a trainer section",
        ["check", TINY, "rl.trainer.bf16=true"],
        "rl.trainer.bf16 is set by model.dtype. Remove the key.",
    ),
    BadDay(
        "torch_compile in a trainer section",
        ["check", TINY, "curriculum.trainer.torch_compile=true"],
        "curriculum.trainer.torch_compile is set by model.compile, layer by layer. Remove the key.",
    ),
    BadDay(
        "model.compile without a compiler",
        ["train", TINY, "output_dir={folder}", "model.compile=true"],
        "model.compile: torch.compile does not work here (RuntimeError: Failed to find C++ compiler",
        before=without_a_compiler,
        after=nothing_begun,
    ),
    launched("a launch under FSDP", "ACCELERATE_USE_FSDP", "true", "FSDP"),
    launched(
        "a launch with mixed_precision",
        "ACCELERATE_MIXED_PRECISION",
        "bf16",
        "mixed_precision=bf16",
    ),
    launched("a launch with a compiler", "ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "torch.compile"),
    BadDay(
        "a quantised base without a LoRA",
        ["check", TINY, f"model={{name_or_path: {FINAL}, quantization: {{bits: 4}}}}"],
        "quantization needs lora: quantised weights cannot be trained, adapters over them can",
    ),
    BadDay(
        "a new model that is quantised",
        ["check", TINY, "model.lora={target_modules: [c_attn]}", "model.quantization={bits: 4}"],
        "quantization needs a trained model (name_or_path): config builds one that has yet to learn",
    ),
    over_quantized(
        "a kind of 4 bits with 8 bits",
        "quant_type=nf4 is of 4 bits alone; remove it, or set bits: 4",
        quantization="bits: 8, quant_type: nf4",
    ),
    over_quantized(
        "quantised modules that are to be trained whole",
        "model.lora.modules_to_save trains transformer.h.0.mlp.c_fc whole, and model.quantization keeps its weights in "
        "few bits",
        adapters="target_modules: [c_attn], modules_to_save: [c_fc]",
    ),
    over_quantized(
        "DoRA over a quantised base",
        "model.lora.use_dora reads or changes the weights of the base, which model.quantization keeps in few bits",
        adapters="target_modules: [c_attn], use_dora: true",
    ),
    BadDay(
        "a quantised base that is to be compiled",
        [
            "check",
            TINY,
            f"model={{name_or_path: {FINAL}, lora: {{target_modules: [c_attn]}}, quantization: {{bits: 4}}}}",
            "model.compile=true",
        ],
        "compile does not go with quantization, whose layers run code that a compiler cannot see: remove one",
    ),
    over_quantized(
        "a quantised base under DeepSpeed",
        "The launcher asks for DeepSpeed, which cannot hold the weights that model.quantization keeps in few bits",
        before=lambda scene: scene.monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true"),
    ),
    over_quantized(
        "a quantised base without bitsandbytes",
        "model.quantization needs the package bitsandbytes, which is not installed: pip install "
        "'neuralese[quantization]'",
        before=lambda scene: scene.monkeypatch.setattr(quantization, "find_spec", lambda name: None),
    ),
]
