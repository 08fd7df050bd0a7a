"""A base in 4 or 8 bits under a LoRA: its layers, one product for training and sampling, and how it merges."""

import json

import pytest
import torch
from peft import get_peft_model
from quantized import KINDS, TARGETS, dequantized, layers, quantized, recipe
from test_generate import QUESTIONS, sample, teacher_forced
from torch import nn

from neuralese.pipeline import load_reasoner
from neuralese.pipeline.latent import ModelError, parse_noise
from neuralese.pipeline.latent.engine.precision import computing
from neuralese.pipeline.latent.engine.quantized import full_size, full_state_dict, is_quantized
from neuralese.pipeline.model import quantization
from neuralese.pipeline.run.validate import check_recipe
from neuralese.pipeline.train.lora import lora_config, merge_adapter

pytest.importorskip("bitsandbytes")

IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [7, 5, 9, 6, 8, 5]])
# Largest relative error of weights: 16 levels of a normal distribution, 16 of a float, 255 even ones.
ERRORS = {"nf4": (0.05, 0.13), "fp4": (0.05, 0.2), "int8": (1e-3, 0.015)}


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


def test_a_model_that_is_quantised_already_is_refused(save):
    folder = save("gpt2")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "bitsandbytes"}}))
    with pytest.raises(
        ModelError, match=r"quantized \(bitsandbytes\).*full precision.*model.quantization quantises it"
    ):
        quantized(folder, "nf4")
