"""A base in 4 or 8 bits under a LoRA: one product for training and sampling, and checkpoints in full precision."""

import json
import sys

import pytest
import quantization_gap
import torch
from peft import get_peft_model
from runs import tiny, weights
from test_generate import QUESTIONS, sample, teacher_forced
from torch import nn
from transformers import AutoModelForCausalLM, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from neuralese.pipeline import load_reasoner
from neuralese.pipeline.cli.app import main
from neuralese.pipeline.latent import ModelError, parse_noise
from neuralese.pipeline.latent.engine.precision import computing
from neuralese.pipeline.latent.engine.quantized import QuantizedLinear, full_size, full_state_dict, is_quantized
from neuralese.pipeline.model import quantization
from neuralese.pipeline.recipe.load import RecipeError, load_recipe
from neuralese.pipeline.recipe.schema import QuantizationSection
from neuralese.pipeline.run import results
from neuralese.pipeline.run.launch import LaunchError, check_launched, check_quantized_launch
from neuralese.pipeline.run.train import run
from neuralese.pipeline.run.validate import check_recipe
from neuralese.pipeline.train import callbacks, hand_over
from neuralese.pipeline.train.lora import lora_config, merge_adapter

pytest.importorskip("bitsandbytes")

IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [7, 5, 9, 6, 8, 5]])
LLAMA = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TARGETS = {"gpt2": "[c_attn, c_fc, c_proj]", "llama": "[q_proj, v_proj, down_proj]"}
KINDS = {
    "nf4": {"bits": 4},
    "fp4": {"bits": 4, "quant_type": "fp4", "double_quant": False},
    "int8": {"bits": 8},
}
# Largest relative error of weights: 16 levels of a normal distribution, 16 of a float, 255 even ones.
ERRORS = {"nf4": (0.05, 0.13), "fp4": (0.05, 0.2), "int8": (1e-3, 0.015)}


@pytest.fixture
def save(make, tmp_path):
    """Saves a random reasoner of an architecture with given latent options: its folder."""

    def build(name, **latent):
        config = LlamaConfig(**LLAMA, num_key_value_heads=2, initializer_range=0.1, tie_word_embeddings=False)
        given = (LlamaForCausalLM, config) if name == "llama" else (GPT2LMHeadModel, None)
        make(*given, **{"num_latents": 3, **latent}).save_pretrained(tmp_path / name)
        return tmp_path / name

    return build


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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TARGETS)
def test_linear_layers_are_quantised_and_nothing_else(save, name, kind):
    folder = save(name, thought_source="projection")
    model, plain = quantized(folder, kind).model, load_reasoner(folder).model
    found = layers(model)
    assert len(found) == (8 if name == "gpt2" else 14)  # 4 or 7 of each of two layers
    originals = dict(plain.named_modules())
    for key, layer in found.items():
        original = originals[key].weight if name == "llama" else originals[key].weight.t()  # Conv1D is (in, out)
        assert original.shape == (layer.out_features, layer.in_features) == layer.full_weight().shape
        error = ((layer.full_weight() - original).norm() / original.norm()).item()
        assert ERRORS[kind][0] < error < ERRORS[kind][1], key
        size = original.numel() if kind == "int8" else original.numel() // 2
        assert layer.weight.numel() * layer.weight.element_size() == size
        assert layer.weight.dtype == (torch.int8 if kind == "int8" else torch.uint8)
    rest = {key: value for key, value in model.named_parameters() if key.removesuffix(".weight") not in found}
    assert {value.dtype for value in rest.values()} == {torch.float32}
    assert all(torch.equal(value, plain.get_parameter(key)) for key, value in rest.items())
    assert type(model.get_output_embeddings()) is nn.Linear
    assert full_size(model) == full_size(plain) == sum(4 * weight.numel() for weight in plain.parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_layer_and_its_gradient_are_those_of_the_dequantised_weight(save, kind, dtype):
    model = quantized(save("gpt2"), kind, dtype=dtype).model
    for layer in layers(model).values():
        x = torch.randn(2, 3, layer.in_features, requires_grad=True)
        given = torch.randn(2, 3, layer.out_features)
        weight = layer.full_weight()
        assert weight.dtype == (torch.bfloat16 if dtype == "bfloat16" and kind != "int8" else torch.float32)
        for training in (False, True, False):  # bitsandbytes' own layers compute otherwise in each, or lose gradients
            layer.train(training)
            with torch.no_grad(), computing(model):
                sampled = layer(x)
            with computing(model):
                found = layer(x)
            assert torch.equal(sampled, found) and found.dtype == getattr(torch, dtype)
            (gradient,) = torch.autograd.grad(found, x, given.to(found.dtype))
            wanted = x.detach().to(found.dtype) @ weight.to(found.dtype).t() + layer.bias.to(found.dtype)
            tolerance = 1e-5 if dtype == "float32" else 2e-2
            assert torch.allclose(found, wanted, rtol=tolerance, atol=tolerance)
            assert gradient.dtype == torch.float32
            expected = (given.to(found.dtype) @ weight.to(found.dtype)).float()
            assert torch.allclose(gradient, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TARGETS)
def test_loss_and_gradients_of_adapters_are_those_over_the_dequantised_model(save, tmp_path, name, kind):
    folder, of = save(name, thought_source="projection"), recipe(tmp_path, name)
    start, latent, end = load_reasoner(folder).config.token_ids
    ids = torch.tensor([[5, 6, 7, start, latent, latent, end, 8, 9]])
    found = []
    for reasoner in (quantized(folder, kind), dequantized(folder, kind)):
        torch.manual_seed(1)
        model = get_peft_model(reasoner.model, lora_config(of, reasoner))
        with torch.no_grad():
            for key, weight in model.named_parameters():
                if "lora_B" in key:
                    weight.normal_(std=0.1)
        loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss
        loss.backward()
        trains = {key: weight for key, weight in model.named_parameters() if weight.requires_grad}
        assert {weight.dtype for weight in trains.values()} == {torch.float32}
        found.append((loss.item(), {key: weight.grad for key, weight in trains.items()}))
    (loss, gradients), (wanted, expected) = found
    assert loss == pytest.approx(wanted, rel=1e-5)
    assert gradients.keys() == expected.keys() and any("thought_source" in key for key in gradients)
    for key, gradient in gradients.items():
        assert torch.allclose(gradient, expected[key], rtol=1e-3, atol=1e-5), key


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_checkpointed_activations_give_the_same_gradients(save, tmp_path, kind):
    folder, of = save("llama"), recipe(tmp_path, "llama")
    latent = load_reasoner(folder).config.token_ids[1]
    ids = torch.tensor([[5, 6, 7, latent, latent, 8, 9]])
    found = []
    for checkpoints in (False, True):
        torch.manual_seed(1)
        reasoner = quantized(folder, kind)
        model = get_peft_model(reasoner.model, lora_config(of, reasoner)).train()
        if checkpoints:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss.backward()
        found.append({key: weight.grad for key, weight in model.named_parameters() if "lora_B" in key})
    assert all(gradient.abs().max() > 0 for gradient in found[0].values())
    assert all(torch.allclose(found[1][key], found[0][key], atol=1e-6) for key in found[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TARGETS)
def test_samples_do_not_depend_on_the_batch_and_have_the_log_probs_of_training(save, name, kind):
    reasoner = quantized(save(name), kind)
    options = {"n": 3, "temperature": 1.0, "noise": "gaussian:0.4"}
    together = sample(reasoner, QUESTIONS, **options)
    apart = sample(reasoner, QUESTIONS, batch_size=1, **options)
    for question, one, other in zip(QUESTIONS, together, apart, strict=True):
        assert one.texts == other.texts and torch.allclose(one.latents, other.latents, atol=1e-5)
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
        for training in (True, False):
            reasoner.model.train(training)
            expected = teacher_forced(reasoner, question, one, 1.0, parse_noise("gaussian:0.4"))
            assert one.logprobs == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TARGETS)
def test_adapters_train_and_merge_into_the_full_weights(save, tmp_path, name, kind):
    """Where quantisation loses nothing, the merged model is the one that was trained."""
    folder, of = save(name), recipe(tmp_path, name, f"model.quantization={json.dumps(KINDS[kind])}")
    dequantized(folder, kind).save_pretrained(folder)  # what is quantised again stays as it is
    reasoner = quantized(folder, kind)
    model = get_peft_model(reasoner.model, lora_config(of, reasoner))
    frozen = {key: layer.weight.clone() for key, layer in layers(reasoner.model).items()}
    before = {key: weight.clone() for key, weight in model.named_parameters() if weight.requires_grad}
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=0.02)
    losses = []
    for _ in range(8):
        losses.append(model(input_ids=IDS, attention_mask=torch.ones_like(IDS), labels=IDS).loss)
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.8 * losses[0]
    assert all(torch.equal(layer.weight, frozen[key]) for key, layer in layers(reasoner.model).items())
    moved = {
        key for key, weight in model.named_parameters() if weight.requires_grad and not torch.equal(weight, before[key])
    }
    assert {key for key in before if "lora" in key} <= moved
    with torch.no_grad():
        wanted = model.eval()(IDS).logits
    model.save_pretrained(tmp_path / "final")
    merge_adapter(folder, tmp_path / "final", reasoner.config, reasoner.tokenizer, of)
    with torch.no_grad():
        found = load_reasoner(tmp_path / "final").model(IDS).logits
    double = 1e-4 if kind != "nf4" else 2e-3  # the scales are rounded anew
    assert (found - wanted).norm() < double * wanted.norm()


def test_what_says_that_a_model_is_quantised_is_gone_and_it_is_not_saved(save, tmp_path):
    """By that TRL rounds what trains to bfloat16."""
    reasoner = quantized(save("gpt2"), "nf4")
    assert is_quantized(reasoner.model) and "quantization_config" not in reasoner.model.config.to_dict()
    for name in ("is_quantized", "is_loaded_in_4bit", "is_loaded_in_8bit", "hf_quantizer", "quantization_method"):
        assert not getattr(reasoner.model, name, None), name
    with pytest.raises(ModelError, match="quantised weights and is not written to"):
        reasoner.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize("name", TARGETS)
def test_a_decoder_begins_as_what_the_quantised_layers_stand_for(save, name):
    folder = save(name, supervision="decoder")
    decoders = [load(folder, supervised=True).model.supervision for load in
                (lambda f, **o: quantized(f, "nf4", **o), lambda f, **o: dequantized(f, "nf4", **o))]  # fmt: skip
    theirs = full_state_dict(quantized(folder, "nf4").model.base_model)
    copied = {key: value for key, value in decoders[0].trunk.state_dict().items() if key in theirs}
    assert len(copied) > 10 and all(torch.equal(value, theirs[key]) for key, value in copied.items())
    assert not is_quantized(decoders[0]) and {w.dtype for w in decoders[0].parameters()} == {torch.float32}
    assert decoders[0].state_dict().keys() == decoders[1].state_dict().keys()


def untrained(folder):
    """A base of the words of the tiny recipe, in `folder/gpt2`."""
    of = tiny(folder, "tracking.wandb=false", "curriculum=null", "rl=null", "name=first")
    run(of)
    (of.folder / "base" / "final").rename(folder / "gpt2")


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("nf4", ["model.dtype=bfloat16"]),
        ("int8", ["rl.algorithm=ppo", "curriculum.supervision=decoder", "rl.trainer.beta=0.1"]),
    ],
)
def test_a_run_leaves_ordinary_checkpoints(tmp_path, monkeypatch, kind, more):
    untrained(tmp_path)
    ends, measured, release, measure = [], [], hand_over.release, results.measure

    def keep(trainer):
        trains = {key: w for key, w in trainer.model.named_parameters() if w.requires_grad}
        ends.append(({w.dtype for w in trains.values()}, len(layers(trainer.model))))
        assert all(w.abs().max() > 0 for key, w in trains.items() if "lora_B" in key)
        release(trainer)

    def look(reasoner, *args):
        measured.append((len(layers(reasoner.model)), reasoner.config.compute_dtype))
        return measure(reasoner, *args)

    monkeypatch.setattr(hand_over, "release", keep)
    monkeypatch.setattr(results, "measure", look)
    # A reward by which answers differ, whatever is drawn, so that RL moves its adapter, too.
    (tmp_path / "reward.py").write_text(
        "def size(completions, **_):\n    return [float(len(c)) for c in completions]\n"
    )
    reward = f"rl.rewards=[{{function: '{tmp_path / 'reward.py'}:size'}}]"
    of = recipe(tmp_path, "gpt2", f"model.quantization={json.dumps(KINDS[kind])}", reward, *more)
    run(of)
    assert ends == [({torch.float32}, 4)] * 4
    assert measured == [(4, of.model.dtype)] * 3
    assert json.loads((of.folder / "samples" / "rl" / "greedy.jsonl").open().readline())["quantization"]
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(SystemExit) as stop:
        main(["eval", str(of.folder), "model.quantization=null", "evaluate.sampling=[]"])
    assert not stop.value.code and measured[3:] == [(0, of.model.dtype)] * 3
    head = (of.folder / "eval-samples" / "rl" / "greedy.jsonl").open().readline()
    assert "quantization" not in json.loads(head)
    for stage in ("sft", "curriculum", "rl"):
        final = of.folder / stage / "final"
        assert {weight.dtype for weight in weights(final).values()} == {torch.float32}
        assert "quantization_config" not in json.loads((final / "config.json").read_text())
        _, info = AutoModelForCausalLM.from_pretrained(final, output_loading_info=True)
        assert not info["missing_keys"] and not is_quantized(load_reasoner(final).model)


def test_the_script_measures_what_quantisation_costs(tmp_path):
    untrained(tmp_path)
    found = {}
    for kind in ("null", "{bits: 8}", "{bits: 4}"):
        of = recipe(tmp_path, "gpt2", f"model.quantization={kind}", "sft.trainer.learning_rate=0.02")
        found[kind] = quantization_gap.gap(of, steps=12, batch=4, problems=8)
    plain, int8, nf4 = found.values()
    assert plain["full"] == pytest.approx(plain["trained"], abs=1e-4) == plain["quantised again"]
    assert plain["base, full"] == plain["base, quantised"] == nf4["base, full"] != nf4["base, quantised"]
    assert plain["MB, quantised"] == plain["MB, full"] == nf4["MB, full"] > int8["MB, quantised"] > nf4["MB, quantised"]
    for one in found.values():
        assert one["trained"] < one["base, quantised"] - 0.1
        assert one["quantised again"] == pytest.approx(one["trained"], abs=0.1)
    with pytest.raises(RecipeError, match="must have model.name_or_path, model.lora"):
        quantization_gap.gap(tiny(tmp_path), 1, 1, 1)


def test_a_killed_run_resumes_to_the_same_weights(tmp_path, monkeypatch):
    untrained(tmp_path)
    options = ["model.quantization={bits: 4}", "sft=null", "curriculum=null", "rl.noise=null"]
    run(recipe(tmp_path, "gpt2", *options))

    def die_at_three(self, args, state, control, **kwargs):
        assert state.global_step < 3, "killed"

    monkeypatch.setattr(callbacks.ProgressCallback, "on_step_end", die_at_three)
    with pytest.raises(AssertionError, match="killed"):
        run(recipe(tmp_path, "gpt2", *options, "name=killed"))
    monkeypatch.undo()
    resumed = recipe(tmp_path, "gpt2", *options, "name=killed")
    run(resumed, resume=True)
    one, other = weights(tmp_path / "tiny" / "rl" / "final"), weights(resumed.folder / "rl" / "final")
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_stopped_curriculum_hands_over_full_weights(tmp_path):
    untrained(tmp_path)
    of = recipe(tmp_path, "gpt2", "model.quantization={bits: 4}", "rl=null", "curriculum.at_limit=stop")
    run(of)
    before, after = weights(of.folder / "sft" / "final"), weights(of.folder / "curriculum" / "final")
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_what_cannot_be_quantised_is_refused(save, monkeypatch):
    folder = save("gpt2")
    with pytest.raises(ModelError, match="dtype=float64 is refused with quantization"):
        quantized(folder, "nf4", dtype="float64")
    with pytest.raises(ModelError, match="no linear layers that bitsandbytes can quantise. Remove model.quantization"):
        quantization.as_frozen_base(nn.Sequential(nn.Embedding(3, 4)), "float32")
    monkeypatch.setattr("bitsandbytes.functional.quantize_4bit", lambda *_: 1 / 0)
    with pytest.raises(ModelError, match="bitsandbytes cannot quantise on cpu: ZeroDivisionError.*another one"):
        quantized(folder, "nf4")
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"not installed: pip install 'neuralese\[quantization\]'"):
        quantized(folder, "nf4")


LORA = "model.lora={r: 4, target_modules: [c_attn]}"
PATH = "model.name_or_path=somewhere"


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        ([LORA, "model.quantization={bits: 4}"], "quantization needs a trained model"),
        (
            ["model.config=null", PATH, "model.quantization={bits: 4}"],
            "quantization needs lora: quantised weights cannot",
        ),
        ([LORA, "model.quantization={bits: 5}"], "model.quantization.bits"),
        ([LORA, "model.quantization={bits: 8, quant_type: nf4}"], "quant_type=nf4 is of 4 bits alone"),
        ([LORA, "model.quantization={bits: 8, double_quant: false}"], "double_quant=False is of 4 bits alone"),
        ([LORA, "model.quantization={bits: 4, quant_type: int4}"], "model.quantization.quant_type"),
        (
            [LORA, "model.quantization={bits: 4, double: true}"],
            "model.quantization.double'.*did you mean 'double_quant'",
        ),
        ([LORA, "model.quantization={quant_type: nf4}"], "model.quantization.bits"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(tmp_path, overrides, why):
    with pytest.raises(RecipeError, match=why):
        tiny(tmp_path, *overrides)


def test_the_keys_of_a_resolved_recipe_are_read_again(save, tmp_path):
    save("gpt2")
    for given, full in (
        ({"bits": 4}, {"bits": 4, "quant_type": "nf4", "double_quant": True}),
        ({"bits": 4, "quant_type": "fp4", "double_quant": False},) * 2,
        ({"bits": 8}, {"bits": 8, "quant_type": None, "double_quant": None}),
    ):
        of = recipe(tmp_path, "gpt2", f"model.quantization={json.dumps(given)}")
        assert of.model.quantization.model_dump() == full
        (tmp_path / "recipe.yaml").write_text(of.to_yaml())
        assert load_recipe(tmp_path / "recipe.yaml") == of


@pytest.mark.parametrize(
    ("lora", "why"),
    [
        ("{target_modules: [c_attn], use_dora: true}", "model.lora.use_dora reads or changes the weights of the base"),
        (
            "{target_modules: [c_attn], target_parameters: [c_fc.weight]}",
            "model.lora.target_parameters reads or changes",
        ),
        (
            "{target_modules: [c_attn], modules_to_save: [c_fc]}",
            "modules_to_save trains transformer.h.0.mlp.c_fc whole",
        ),
        ("{target_modules: [c_attn], modules_to_save: [mlp]}", "modules_to_save trains transformer.h.0.mlp whole, and"),
    ],
)
def test_adapters_that_need_full_weights_are_refused(save, tmp_path, lora, why):
    save("gpt2")
    if "target_parameters" not in lora:  # which PEFT cannot do on GPT-2
        check_recipe(recipe(tmp_path, "gpt2", f"model.lora={lora}"))
    with pytest.raises(RecipeError, match=why):
        check_recipe(recipe(tmp_path, "gpt2", f"model.lora={lora}", "model.quantization={bits: 4}"))


@pytest.mark.parametrize("options", ["modules_to_save: [ln_f]", "bias: all", "use_rslora: true"])
def test_what_is_not_quantised_may_be_trained_whole(save, tmp_path, options):
    folder = save("gpt2")
    more = [f"model.lora={{r: 4, target_modules: [c_attn], {options}}}", "model.quantization={bits: 8}"]
    of = recipe(tmp_path, "gpt2", *more)
    check_recipe(of)
    dequantized(folder, "int8").save_pretrained(folder)
    reasoner = quantized(folder, "int8")
    model = get_peft_model(reasoner.model, lora_config(of, reasoner))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn_like(weight))
        wanted = model.eval()(IDS).logits
    model.save_pretrained(tmp_path / "final")
    merge_adapter(folder, tmp_path / "final", reasoner.config, reasoner.tokenizer, of)
    with torch.no_grad():
        found = load_reasoner(tmp_path / "final").model(IDS).logits
    assert (found - wanted).norm() < 1e-4 * wanted.norm()


def test_launches_that_split_or_copy_weights_are_refused(save, tmp_path, monkeypatch):
    save("gpt2")
    of = recipe(tmp_path, "gpt2", "model.quantization={bits: 4}")
    (tmp_path / "ds.json").write_text("{}")
    staged = recipe(tmp_path, "gpt2", "model.quantization={bits: 4}", f"rl.trainer.deepspeed={tmp_path / 'ds.json'}")
    check_quantized_launch(of)
    with pytest.raises(LaunchError, match="rl.trainer.deepspeed asks for DeepSpeed, which cannot hold"):
        check_quantized_launch(staged)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    check_quantized_launch(recipe(tmp_path))
    with pytest.raises(LaunchError, match="The launcher asks for DeepSpeed, which cannot hold"):
        check_recipe(of)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(LaunchError, match="2 GPUs are in sight of one process.*ddp.yaml.*CUDA_VISIBLE_DEVICES=0"):
        check_launched(of)
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_launched(of)


def test_a_model_that_is_quantised_already_is_refused(save):
    folder = save("gpt2")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "bitsandbytes"}}))
    with pytest.raises(
        ModelError, match=r"quantized \(bitsandbytes\).*full precision.*model.quantization quantises it"
    ):
        quantized(folder, "nf4")
