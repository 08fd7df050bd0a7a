"""The batched, cached forward equals the naive one, row by row, in loss, logits, latents and every gradient."""

import copy

import pytest
import torch
from batches import ROWS, L, assert_same_gradients, batch, encode, gradients
from reference import latent_forward, latent_loss
from transformers import (
    BartConfig,
    BartForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    T5Config,
    T5ForConditionalGeneration,
)

from neuralese.pipeline.latent import LatentConfig, ModelError, latentize, parse_noise
from neuralese.pipeline.latent.thoughts import Thought, embedding_rms

SOURCES = [
    ("raw", {}),
    ("norm_matched", {}),
    ("projection", {"width": 20}),
    ("gaussian_head", {}),
    ("soft_vocabulary", {"top_k": 3, "temperature": 0.5}),
    ("pause_multi", {}),
]


@pytest.mark.parametrize(("source", "options"), SOURCES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_loss_and_gradients_equal_the_naive_forward(make, source, options, side):
    reasoner = make(thought_source=source, thought_options=options, supervision_weight=0.3)
    ids, labels = encode(reasoner)
    expected = latent_loss(reasoner.model, ids, labels, 0.3)
    expected_gradients = gradients(reasoner.model, expected)
    output = reasoner(**batch(reasoner, side))
    assert torch.allclose(output.loss, expected, atol=1e-5)
    assert_same_gradients(gradients(reasoner.model, output.loss), expected_gradients)


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_and_latents_equal_the_naive_forward(reasoner, side):
    inputs = batch(reasoner, side)
    inputs.pop("labels")
    output = reasoner(**inputs)
    ids, _ = encode(reasoner)
    for row, tokens in enumerate(ids):
        expected, latents = latent_forward(reasoner.model, tokens)
        logits = output.logits[row][inputs["attention_mask"][row].bool()]
        assert torch.allclose(logits, expected, atol=1e-5)
        for ours, theirs in zip(output.latents[row], latents, strict=False):
            assert torch.allclose(ours, theirs, atol=1e-5)
        assert not output.latents[row, len(latents) :].any()


def test_a_row_does_not_depend_on_its_neighbours(reasoner):
    together = reasoner(**batch(reasoner, "right"))
    order = [3, 0, 4, 1, 2]
    permuted = reasoner(**batch(reasoner, "right", [ROWS[i] for i in order]))
    assert torch.allclose(together.loss, permuted.loss, atol=1e-6)
    inputs = batch(reasoner, "right")
    inputs.pop("labels")
    all_logits = reasoner(**inputs).logits
    for row in range(len(ROWS)):
        length = int(inputs["attention_mask"][row].sum())
        alone = reasoner(input_ids=inputs["input_ids"][row : row + 1, :length])
        assert torch.allclose(alone.logits[0], all_logits[row, :length], atol=1e-5)


def test_labelled_logits_are_the_logits_at_the_labels(reasoner):
    inputs = batch(reasoner, "left")
    packed = reasoner(**inputs).logits
    labels = inputs.pop("labels")
    full = reasoner(**inputs).logits
    assert torch.allclose(packed, full[:, :-1][labels[:, 1:] != -100], atol=1e-5)


def test_without_latents_it_is_the_plain_model(reasoner):
    rows = [[6, 7, 8, 9], [10, 11, 12, 13, 6, 7]]
    plain = copy.deepcopy(reasoner.model)
    plain.__class__ = type(plain).__mro__[2]  # the class Transformers gave it
    assert not hasattr(plain, "_most_latents")
    inputs = batch(reasoner, "right", rows)
    expected = plain(**inputs)
    output = reasoner(**inputs)
    assert torch.allclose(output.loss, expected.loss, atol=1e-6)
    assert_same_gradients(gradients(reasoner.model, output.loss), gradients(plain, expected.loss))
    labels = inputs.pop("labels")
    assert torch.equal(reasoner(**inputs).logits, plain(**inputs).logits)
    assert labels.shape == inputs["input_ids"].shape


def test_pause_tokens_are_one_pass_over_their_own_embedding(make):
    reasoner = make(thought_source="pause")
    inputs = batch(reasoner, "right")
    inputs.pop("labels")
    expected = reasoner.model.base_model(input_ids=inputs["input_ids"]).last_hidden_state
    expected = reasoner.model.get_output_embeddings()(expected)
    mask = inputs["attention_mask"].bool()
    assert torch.allclose(reasoner(**inputs).logits[mask], expected[mask], atol=1e-4)


def test_noise_comes_from_the_row_seed_alone(reasoner):
    noise = parse_noise("gaussian:0.5")
    inputs = batch(reasoner, "right")
    seeds = torch.tensor([3, 1, 4, 1, 5])
    noisy = reasoner(**inputs, noise=noise, noise_seeds=seeds)
    ids, _ = encode(reasoner)
    for row, tokens in enumerate(ids):
        count = tokens.count(reasoner.config.token_ids[1])
        epsilon = noise.sample_batch(seeds[[row]], count, 32)[0]
        _, latents = latent_forward(reasoner.model, tokens, epsilon, lambda z, e: noise.apply(Thought(z), e))
        for ours, theirs in zip(noisy.latents[row], latents, strict=False):
            assert torch.allclose(ours, theirs, atol=1e-5)
    clean = reasoner(**inputs)
    assert not torch.allclose(noisy.loss, clean.loss, atol=1e-4)


def test_accumulated_micro_batches_give_the_loss_of_one_batch(reasoner):
    inputs = batch(reasoner, "right")
    whole = gradients(reasoner.model, reasoner(**inputs).loss)
    items = (inputs["labels"][:, 1:] != -100).sum()
    reasoner.model.zero_grad()
    for part in (slice(0, 2), slice(2, 5)):
        reasoner(**{k: v[part] for k, v in inputs.items()}, num_items_in_batch=items).loss.backward()
    accumulated = {name: p.grad.clone() for name, p in reasoner.model.named_parameters()}
    assert_same_gradients(accumulated, whole)


def test_position_ids_may_be_one_row_for_all(reasoner):
    rows = [row[:6] for row in (ROWS[0], ROWS[1], ROWS[4])]
    ids = torch.tensor(encode(reasoner, rows)[0])
    shifted = torch.arange(3, 9)
    expected = reasoner(input_ids=ids, position_ids=shifted.expand(3, -1)).logits
    assert torch.equal(reasoner(input_ids=ids, position_ids=shifted[None]).logits, expected)
    assert not torch.allclose(reasoner(input_ids=ids).logits, expected, atol=1e-3)


def test_extra_passes_change_nothing(reasoner, monkeypatch):
    """Under ZeRO-3 a rank may have to run more passes than its own rows need."""
    inputs = batch(reasoner, "right", [ROWS[0], ROWS[2]])
    expected = reasoner(**inputs)
    expected_gradients = gradients(reasoner.model, expected.loss)
    monkeypatch.setattr(type(reasoner.model), "_most_latents", lambda self, counts: 6)
    padded = reasoner(**inputs)
    assert torch.allclose(padded.loss, expected.loss, atol=1e-6)
    assert_same_gradients(gradients(reasoner.model, padded.loss), expected_gradients)


@pytest.mark.parametrize(
    ("row", "message"), [([L, 6, 7], "begins with a"), ([6] * 65 + [L, 7], "context window is 64")]
)
def test_bad_rows_are_named(reasoner, row, message):
    ids, _ = encode(reasoner, [[6, 7, L, 8], row])
    width = max(map(len, ids))
    mask = torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in ids])
    with pytest.raises(ModelError, match=message):
        reasoner(input_ids=torch.tensor([r + [0] * (width - len(r)) for r in ids]), attention_mask=mask)


def test_an_all_padding_row_is_named(reasoner):
    inputs = batch(reasoner, "right")
    inputs["attention_mask"][2] = 0
    with pytest.raises(ModelError, match="Row 2 of the batch is all padding"):
        reasoner(**inputs)


def test_noise_without_seeds_is_refused(reasoner):
    with pytest.raises(ModelError, match="noise_seeds"):
        reasoner(**batch(reasoner, "right"), noise=parse_noise("gaussian:0.5"))


def test_unfit_architectures_are_refused_with_a_reason(make):
    t5 = T5ForConditionalGeneration(T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=16))
    with pytest.raises(ModelError, match="encoder-decoder"):
        latentize(t5, LatentConfig())
    tiny = BartConfig(d_model=8, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=8, vocab_size=16)
    with pytest.raises(ModelError, match="inputs_embeds"):

        class NoEmbeds(BartForCausalLM):
            @property
            def base_model(self):
                return torch.nn.Linear(1, 1)

        latentize(NoEmbeds(tiny), LatentConfig())
    with pytest.raises(ModelError, match="Unknown thought source 'rawr'"):
        make(thought_source="rawr")


def test_the_embedding_rms_is_that_of_what_the_model_is_fed(make):
    """Gemma scales its embeddings by the square root of their size."""
    config = Gemma3TextConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
                              num_key_value_heads=1, head_dim=8)  # fmt: skip
    embedding = make(Gemma3ForCausalLM, config).model.get_input_embeddings()
    matrix = embedding.weight.detach().pow(2).mean().sqrt().item()
    assert embedding_rms(embedding) == pytest.approx(4 * matrix, rel=1e-5)
