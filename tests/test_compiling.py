"""Decoder layers under torch.compile compute what they compute without it, in training, sampling and a whole run."""

import pytest
import torch
from processes import needs_compiler
from runs import tiny
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.modeling_layers import GradientCheckpointingLayer

from neuralese.pipeline import load_reasoner
from neuralese.pipeline.evaluate.table import stage_name
from neuralese.pipeline.latent import parse_noise
from neuralese.pipeline.latent.config import ModelError
from neuralese.pipeline.latent.engine import compiling
from neuralese.pipeline.run.launch import LaunchError
from neuralese.pipeline.run.train import run
from neuralese.pipeline.run.validate import check_recipe

pytestmark = needs_compiler
LLAMA = LlamaConfig(
    hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=64, initializer_range=0.1,
)  # fmt: skip


@pytest.fixture
def traced(monkeypatch):
    """Layers are traced, with their gradients, and what was traced runs without a compiler, whose work takes long."""
    theirs = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **options: theirs(self, **options, backend="aot_eager")
    )
    torch._dynamo.reset()


def both(make, tmp_path, **made):
    """A reasoner, and the same one compiled."""
    make(**made).save_pretrained(tmp_path)
    return load_reasoner(tmp_path), load_reasoner(tmp_path, compile=True)


def step(reasoner, problems):
    """Loss and gradient of a ragged batch under noise."""
    prompts = [reasoner.prompt_ids(problem.question) for problem in problems[:4]]
    prompts[1] = prompts[1][4:]
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(row)) + row + [5, 6] for row in prompts])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * (len(row) + 2) for row in prompts])
    labels = torch.where(torch.arange(ids.size(1)) >= width, ids, -100)
    model = reasoner.model.train()
    model.zero_grad()
    noise, seeds = parse_noise("gaussian:0.3"), torch.arange(4)
    loss = model(input_ids=ids, attention_mask=mask, labels=labels, noise=noise, noise_seeds=seeds).loss
    loss.backward()
    return loss.item(), {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def assert_alike(compiled, eager, problems):
    (loss, gradients), (theirs, expected) = step(compiled, problems), step(eager, problems)
    assert loss == pytest.approx(theirs, rel=1e-5) and gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        assert (gradient - expected[name]).norm() <= 1e-4 * expected[name].norm() + 1e-7, name
    questions = [problem.question for problem in problems[:4]]
    found, samples = (
        reasoner.generate(questions, n=3, noise="gaussian:0.3", temperature=1.0, seed=1, max_new_tokens=5)
        for reasoner in (compiled, eager)
    )
    assert [one.texts for one in found] == [one.texts for one in samples]
    layers = [layer for layer in compiled.model.modules() if isinstance(layer, GradientCheckpointingLayer)]
    assert len(layers) == 2 and all(layer._compiled_call_impl is not None for layer in layers)
    assert not any("_orig_mod" in name for name in compiled.model.state_dict())


@pytest.mark.slow
def test_a_step_and_samples_are_those_without_a_compiler(make, problems, tmp_path):
    torch._dynamo.reset()
    eager, compiled = both(make, tmp_path, model_class=LlamaForCausalLM, config=LLAMA, num_latents=3)
    assert_alike(compiled, eager, problems)


@pytest.mark.parametrize("latent", [{}, {"loops": 2}], ids=["one by one", "loops"])
def test_what_is_traced_is_the_model(make, problems, tmp_path, traced, latent):
    eager, compiled = both(make, tmp_path, num_latents=3, **latent)
    assert_alike(compiled, eager, problems)


def test_layers_are_recomputed_as_they_were_computed(make, problems, tmp_path, traced):
    eager, compiled = both(make, tmp_path, model_class=LlamaForCausalLM, config=LLAMA, num_latents=3)
    for reasoner in (eager, compiled):
        reasoner.model.gradient_checkpointing_enable({"use_reentrant": False})
    assert_alike(compiled, eager, problems)


@pytest.mark.slow
def test_a_recipe_trains_compiled(tmp_path, traced):
    """SFT, curriculum, RL and evaluation, with adapters in the layers; the checkpoints are those of any run."""
    rows = run(tiny(tmp_path, "model.compile=true", "model.lora={target_modules: [c_attn], r: 2}"))
    final = tmp_path / "tiny/rl/final"
    assert "latent after RL" in {stage_name(row) for row in rows}
    assert load_file(final / "model.safetensors").keys() >= {"transformer.h.0.attn.c_attn.weight"}
    AutoModelForCausalLM.from_pretrained(final)


def test_sharded_weights_are_refused(make, tmp_path, monkeypatch):
    make().save_pretrained(tmp_path)
    monkeypatch.setattr(compiling, "is_sharded", lambda weight: True)
    with pytest.raises(ModelError, match="ZeRO-3 gathers the weights of a layer in hooks.*zero2.yaml"):
        load_reasoner(tmp_path, compile=True)


@pytest.mark.parametrize(
    "section", ["sft.trainer", "curriculum.trainer", "curriculum.last_level_trainer", "rl.trainer"]
)
def test_a_trainer_under_zero_3_is_refused_before_the_first_begins(tmp_path, monkeypatch, section):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "false")  # which the config class sets, to be set back
    config = tmp_path / "zero.json"
    recipes = [tiny(tmp_path, f"{section}.deepspeed={config}", *more) for more in ((), ("model.compile=true",))]
    config.write_text('{"zero_optimization": {"stage": 2}}')
    check_recipe(recipes[1])
    config.write_text('{"zero_optimization": {"stage": 3}}')
    check_recipe(recipes[0])
    assert not is_deepspeed_zero3_enabled()
    with pytest.raises(LaunchError, match=f"{section}.deepspeed does not go with model.compile: ZeRO-3"):
        check_recipe(recipes[1])


def test_no_compiler_is_said_before_anything_begins(make, tmp_path, monkeypatch):
    def fails(*_):
        raise RuntimeError("Failed to find C++ compiler.\nMore lines")

    make().save_pretrained(tmp_path)
    monkeypatch.setattr(compiling.torch, "compile", lambda *_: fails)
    compiling.check_compiler.cache_clear()
    with pytest.raises(ModelError, match=r"RuntimeError: Failed to find C\+\+ compiler.*Install it, or remove"):
        load_reasoner(tmp_path, compile=True)
    compiling.check_compiler.cache_clear()
