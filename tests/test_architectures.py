"""The engine on every architecture the README names: forward, gradients, sampling, checkpointing, save, LoRA."""

import pytest
import torch
from batches import ROWS, assert_same_gradients, batch, encode, gradients, unlabelled
from peft import LoraConfig, PeftModel, get_peft_model
from reference import latent_loss
from test_generate import QUESTIONS, teacher_forced
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertLMHeadModel,
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MptConfig,
    MptForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from neuralese.pipeline import load_reasoner
from neuralese.pipeline.latent import ModelError, parse_noise
from neuralese.pipeline.latent.thoughts import THOUGHT_SOURCES

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.1,
    "attention_dropout": 0.0,
}
GROUPED = SIZES | {"num_key_value_heads": 2, "head_dim": 8}
# A window of 4 tokens is shorter than the rows, and shorter than the padding between their tokens.
WINDOW = {"sliding_window": 4}
MIXED = WINDOW | {"layer_types": ["sliding_attention", "full_attention"]}

ARCHITECTURES = {
    "gpt2": lambda: (
        GPT2LMHeadModel,
        GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=64, initializer_range=0.1,
                   resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0),
    ),
    "llama": lambda: (LlamaForCausalLM, LlamaConfig(**GROUPED)),
    "llama-tied": lambda: (LlamaForCausalLM, LlamaConfig(**GROUPED, tie_word_embeddings=True)),
    "qwen2": lambda: (Qwen2ForCausalLM, Qwen2Config(**GROUPED)),
    "qwen2-window": lambda: (Qwen2ForCausalLM, Qwen2Config(**GROUPED, **MIXED, use_sliding_window=True)),
    "qwen3": lambda: (Qwen3ForCausalLM, Qwen3Config(**GROUPED)),
    "mistral": lambda: (MistralForCausalLM, MistralConfig(**GROUPED, **WINDOW)),
    "gemma2": lambda: (Gemma2ForCausalLM, Gemma2Config(**GROUPED, **MIXED, attn_logit_softcapping=0.5,
                                                       final_logit_softcapping=2.0)),
    "gemma3": lambda: (Gemma3ForCausalLM, Gemma3TextConfig(**GROUPED, **MIXED)),
    "phi3": lambda: (Phi3ForCausalLM, Phi3Config(**SIZES, **WINDOW, num_key_value_heads=2, resid_pdrop=0.0)),
    "olmo2": lambda: (Olmo2ForCausalLM, Olmo2Config(**SIZES, num_key_value_heads=2)),
    "gpt_neox": lambda: (GPTNeoXForCausalLM, GPTNeoXConfig(**SIZES, hidden_dropout=0.0)),
}  # fmt: skip


@pytest.fixture(params=ARCHITECTURES)
def reasoner(request, make):
    model_class, config = ARCHITECTURES[request.param]()
    return make(model_class, config, num_latents=3, supervision_weight=0.5, thought_source="raw")


def expected_gradients(reasoner, rows=ROWS):
    loss = latent_loss(reasoner.model, *encode(reasoner, rows), THOUGHT_SOURCES["raw"], 0.5)
    return loss, gradients(reasoner.model, loss)


def test_loss_and_gradients_equal_the_naive_forward(reasoner):
    expected, theirs = expected_gradients(reasoner)
    for side in ("left", "right"):
        output = reasoner(**batch(reasoner, side))
        assert torch.allclose(output.loss, expected, atol=1e-5)
        assert_same_gradients(gradients(reasoner.model, output.loss), theirs, 2e-5)


def test_activation_checkpointing_is_exact(reasoner):
    expected, theirs = expected_gradients(reasoner)
    model = reasoner.model.train()
    model.gradient_checkpointing_enable()
    output = reasoner(**batch(reasoner, "right"))
    assert torch.allclose(output.loss, expected, atol=1e-5)
    assert_same_gradients(gradients(model, output.loss), theirs, 2e-5)
    assert model.is_activation_checkpointing  # as it was
    text = [row for row in ROWS if "L" not in row]
    expected, theirs = expected_gradients(reasoner, text)
    assert_same_gradients(gradients(model, reasoner(**batch(reasoner, "right", text)).loss), theirs, 2e-5)


def test_a_row_does_not_depend_on_its_neighbours(reasoner):
    inputs = unlabelled(batch(reasoner, "right"))
    together = reasoner(**inputs).logits
    order = [3, 0, 4, 1, 2]
    permuted = reasoner(**unlabelled(batch(reasoner, "left", [ROWS[i] for i in order])))
    for place, row in enumerate(order):
        length = len(ROWS[row])
        alone = reasoner(input_ids=inputs["input_ids"][row : row + 1, :length]).logits[0]
        assert torch.allclose(alone, together[row, :length], atol=1e-5)
        assert torch.allclose(permuted.logits[place, -length:], alone, atol=1e-5)


@pytest.mark.parametrize("sweeps", [None, 2])
def test_logprobs_equal_a_teacher_forced_pass(reasoner, sweeps):
    reasoner.model.set_latent_config(jacobi_sweeps=sweeps)
    options = {"n": 3, "temperature": 1.3, "noise": "gaussian:0.4", "max_new_tokens": 8}
    drawn = reasoner.generate(QUESTIONS, **options)
    alone = reasoner.generate(QUESTIONS, batch_size=1, **options)
    for question, samples, single in zip(QUESTIONS, drawn, alone, strict=True):
        expected = teacher_forced(reasoner, question, samples, 1.3, parse_noise("gaussian:0.4"))
        assert samples.logprobs == pytest.approx(expected, abs=1e-4)
        assert single.texts == samples.texts


def test_save_and_reload(reasoner, tmp_path):
    reasoner.save_pretrained(tmp_path)
    again = load_reasoner(tmp_path)
    inputs = batch(reasoner, "right")
    assert torch.equal(again(**inputs).loss, reasoner(**inputs).loss)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert not hasattr(plain, "latent_config")
    row = inputs["input_ids"][2:3, :4]
    assert torch.allclose(plain(row).logits, reasoner(row).logits, atol=1e-6)


def test_lora_trains_saves_merges_and_reloads(reasoner, tmp_path):
    reasoner.save_pretrained(tmp_path / "base")
    inputs = batch(reasoner, "right")
    before = reasoner(**inputs).loss.item()
    lora = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", r=4, init_lora_weights=False)
    model = get_peft_model(reasoner.model, lora)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for _ in range(4):
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    model.save_pretrained(tmp_path / "adapter")
    trained = model(**inputs).loss
    loaded = PeftModel.from_pretrained(load_reasoner(tmp_path / "base").model, tmp_path / "adapter")
    assert torch.allclose(loaded(**inputs).loss, trained, atol=1e-5)
    reasoner.model = model.merge_and_unload()
    assert torch.allclose(reasoner(**inputs).loss, trained, atol=1e-4)
    assert abs(before - trained.item()) > 1e-3
    reasoner.save_pretrained(tmp_path / "merged")
    assert torch.allclose(load_reasoner(tmp_path / "merged")(**inputs).loss, trained, atol=1e-4)


REFUSED = {
    "looks ahead": (
        lambda: (BertLMHeadModel, BertConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48)),
        "BertLMHeadModel",
    ),
    "alibi by column": (
        lambda: (BloomForCausalLM, BloomConfig(hidden_size=32, n_layer=2, n_head=2)),
        "BloomForCausalLM",
    ),
    "no positions": (lambda: (MptForCausalLM, MptConfig(d_model=32, n_layers=2, n_heads=2)), "MptForCausalLM"),
    "recurrent": (lambda: (MambaForCausalLM, MambaConfig(hidden_size=32, num_hidden_layers=2)), "MambaForCausalLM"),
    "other kinds": (
        lambda: (LlamaForCausalLM, LlamaConfig(**GROUPED, layer_types=["chunked_attention", "full_attention"])),
        "chunked_attention",
    ),
    "no mask per row": (
        lambda: (LlamaForCausalLM, LlamaConfig(**GROUPED, attn_implementation="flex_attention")),
        "flex_attention",
    ),
    "local attention by column": (
        lambda: (GPTNeoForCausalLM, GPTNeoConfig(
            hidden_size=32, num_layers=2, num_heads=2, attention_types=[[["global", "local"], 1]], window_size=4,
            intermediate_size=48, max_position_embeddings=64)),
        "GPTNeoForCausalLM",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_models_that_would_be_wrong_are_refused(make, case):
    build, name = REFUSED[case]
    with pytest.raises(ModelError, match=name) as caught:
        make(*build())
    assert "hoose a" in str(caught.value) or "Load it with" in str(caught.value)
