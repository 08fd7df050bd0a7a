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
    FalconConfig,
    FalconForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
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
    loss = latent_loss(reasoner.model, *encode(reasoner, rows), 0.5)
    return loss, gradients(reasoner.model, loss)


@pytest.mark.parametrize("loops", [None, 2])
def test_loss_and_gradients_equal_the_naive_forward(reasoner, loops):
    reasoner.model.set_latent_config(loops=loops)
    expected, theirs = expected_gradients(reasoner)
    for side in ("left", "right"):
        output = reasoner(**batch(reasoner, side))
        assert torch.allclose(output.loss, expected, atol=1e-5)
        assert_same_gradients(gradients(reasoner.model, output.loss), theirs, 2e-5)


@pytest.mark.parametrize("loops", [None, 2])
def test_activation_checkpointing_is_exact(reasoner, loops):
    reasoner.model.set_latent_config(loops=loops)
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


@pytest.mark.parametrize("options", [{}, {"jacobi_sweeps": 2}, {"loops": 2}])
def test_logprobs_equal_a_teacher_forced_pass(reasoner, options):
    reasoner.model.set_latent_config(**options)
    sampling = {"n": 3, "temperature": 1.3, "noise": "gaussian:0.4", "max_new_tokens": 8}
    drawn = reasoner.generate(QUESTIONS, **sampling)
    alone = reasoner.generate(QUESTIONS, batch_size=1, **sampling)
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


class PositionsByColumn(GPT2Model):
    """Numbers columns, whatever positions it is given."""

    def forward(
        self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, inputs_embeds=None, **kwargs
    ):
        start = past_key_values.get_seq_length() if past_key_values is not None else 0
        width = (inputs_embeds if inputs_embeds is not None else input_ids).size(1)
        position_ids = torch.arange(start, start + width)[None]
        return super().forward(
            input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds,
            past_key_values=past_key_values, position_ids=position_ids, **kwargs,
        )  # fmt: skip


class ColumnGPT2(GPT2LMHeadModel):
    def __init__(self, config):
        super().__init__(config)
        self.transformer = PositionsByColumn(config)
        self.post_init()


GPT_NEO = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]]}
DIFFERENT = "computes other logits when its tokens are run in several passes"
REFUSED = {
    "looks ahead": (
        lambda: (BertLMHeadModel, BertConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48)),
        f"BertLMHeadModel {DIFFERENT}",
    ),
    "positions by column": (
        lambda: (ColumnGPT2, GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=64)),
        f"ColumnGPT2 {DIFFERENT}",
    ),
    "takes no positions": (
        lambda: (BloomForCausalLM, BloomConfig(hidden_size=32, n_layer=2, n_head=2)),
        "BloomForCausalLM does not accept .*position_ids",
    ),
    "breaks on our masks": (
        lambda: (FalconForCausalLM, FalconConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, alibi=True, attn_implementation="eager")),
        "FalconForCausalLM cannot be run pass by pass",
    ),
    "recurrent": (
        lambda: (MambaForCausalLM, MambaConfig(hidden_size=32, num_hidden_layers=2)),
        "MambaForCausalLM does not accept .*past_key_values",
    ),
    "other kinds of layers": (
        lambda: (LlamaForCausalLM, LlamaConfig(**GROUPED, layer_types=["chunked_attention", "full_attention"])),
        "layers of the kinds .*chunked_attention",
    ),
    "windows by column": (lambda: (GPTNeoForCausalLM, GPTNeoConfig(**GPT_NEO)), "layers of the kinds .*local"),
    "no mask per row": (
        lambda: (LlamaForCausalLM, LlamaConfig(**GROUPED, attn_implementation="flex_attention")),
        "attention implementation 'flex_attention'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_models_that_would_be_wrong_are_refused(make, case):
    build, reason = REFUSED[case]
    with pytest.raises(ModelError, match=reason):
        make(*build())


def test_out_of_memory_is_not_the_architecture(make, monkeypatch):
    def no_memory(*args, **kwargs):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr("neuralese.pipeline.latent.engine.verify.run_passes", no_memory)
    with pytest.raises(torch.OutOfMemoryError):
        make()


def test_a_checkpoint_of_an_earlier_release_is_checked_again(make, tmp_path, monkeypatch):
    reasoner = make()
    section = {k: v for k, v in reasoner.model.config.latent.items() if k not in ("jacobi_sweeps", "backprop_steps")}
    reasoner.model.config.latent = section | {"version": 1}
    reasoner.save_pretrained(tmp_path / "old")
    make().save_pretrained(tmp_path / "new")
    checked = []
    monkeypatch.setattr("neuralese.pipeline.model.load.check_exact", checked.append)
    load_reasoner(tmp_path / "new")
    assert not checked
    load_reasoner(tmp_path / "old")
    assert len(checked) == 1


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_positions_that_change_with_the_batch_have_a_shorter_window(make, kind):
    rope = {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
    if kind == "longrope":
        rope |= {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    reasoner = make(LlamaForCausalLM, LlamaConfig(**GROUPED, rope_parameters=rope))
    latent = reasoner.config.token_ids[1]
    assert reasoner.context_window == 16
    reasoner(input_ids=torch.tensor([[6] * 14 + [latent, 7]]))
    with pytest.raises(ModelError, match="context window is 16"):
        reasoner(input_ids=torch.tensor([[6] * 14 + [latent, 7, 8]]))
