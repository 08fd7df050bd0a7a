"""What is read in thoughts: against naive passes, and as `neuralese think` prints it."""

import json

import pytest
import torch
from reference import looped_inputs
from test_cli import assert_one_paragraph, neuralese

from neuralese.pipeline.latent import ModelError, parse_noise
from neuralese.pipeline.latent.batch import Draw
from neuralese.pipeline.latent.thoughts import Thought, suppress
from neuralese.pipeline.model.reading import block_texts, read_latents
from neuralese.pipeline.model.thoughts_in_words import think

QUESTIONS = ["3 + 4 =", "6 - 5 * 2 ="]


def naive_rounds(reasoner, ids, epsilon=None, apply_noise=None):
    """The most likely token (R + 1, L) before each latent after every number of loops, of one unpadded row."""
    loops, found = reasoner.config.loops, []
    places = [place for place, token in enumerate(ids) if token == reasoner.config.token_ids[1]]
    for count in range(loops + 1):
        if count == 0:
            inputs = reasoner.model.get_input_embeddings()(torch.tensor(ids))
        else:
            reasoner.model.set_latent_config(loops=count)
            inputs = looped_inputs(reasoner.model, ids, epsilon, apply_noise)
        logits = reasoner.model(inputs_embeds=inputs[None], use_cache=False).logits[0]
        shares = suppress(logits, reasoner.config.token_ids).softmax(-1)
        found.append([shares[place - 1].max(0) for place in places])
    reasoner.model.set_latent_config(loops=loops)
    return found


@pytest.mark.parametrize("noise", [None, "gaussian:3"])
def test_every_pass_is_read_as_a_naive_one_reads_it(make, noise):
    reasoner = make(num_latents=4, loops=2, latents_per_step=2)
    prompts, kind = [reasoner.prompt_ids(question) for question in QUESTIONS], parse_noise(noise)
    draw = Draw(kind, torch.tensor([3, 8])) if kind is not None else None
    readout = read_latents(reasoner, prompts, draw, passes=True)
    assert readout.tokens.shape == (3, 2, 4, 1)
    for row, ids in enumerate(prompts):
        drawn = ()
        if kind is not None:
            (epsilon,) = kind.sample_batch(draw.seeds[[row]], 4, 32, loops=2)
            drawn = (epsilon, lambda z, e: kind.apply(Thought(z), e))
        for index, expected in enumerate(naive_rounds(reasoner, ids, *drawn)):
            assert readout.tokens[index, row, :, 0].tolist() == [best.indices for best in expected]
            shares = torch.stack([best.values for best in expected])
            assert torch.allclose(readout.probabilities[index, row, :, 0], shares, atol=1e-5)
    last = read_latents(reasoner, prompts, draw)
    assert torch.equal(last.tokens[0], readout.tokens[-1])


def test_blocks_end_where_they_say_so(reasoner):
    eos, words = reasoner.eos_token_ids[0], reasoner.tokenizer.convert_tokens_to_ids(["3", "+", "4"])
    reasoner.model.set_latent_config(latents_per_step=3)
    assert block_texts(reasoner, [*words, words[0], eos, words[2], eos, eos, eos, words[1]]) == ["3 + 4", "3", "", "+"]


def test_thoughts_in_words(make):
    reasoner = make(num_latents=4, loops=2, latents_per_step=2, supervision="step_tokens")
    first, second = think(reasoner, QUESTIONS)
    (expected,) = reasoner.generate(QUESTIONS[:1])
    assert (first.question, first.answer) == (
        QUESTIONS[0],
        expected.texts[0].strip(),
    ) and first.read_by == "step_tokens"
    assert [[one.loop for one in block] for block in first.blocks] == [[0, 1, 2]] * 2 and first != second
    assert all(len(one.tokens) == len(one.probabilities) == 2 for block in first.blocks for one in block)
    noisy, again, other = (think(reasoner, QUESTIONS[:1], noise="gaussian:9", seed=seed)[0] for seed in (1, 1, 2))
    assert noisy == again != other
    (plain,) = think(make(num_latents=3), QUESTIONS[:1])
    assert plain.read_by == "lens" and [[one.loop for one in block] for block in plain.blocks] == [[None]] * 3
    reader = make(num_latents=4, latents_per_step=2, supervision="decoder", supervised=True)
    (decoded,) = think(reader, QUESTIONS[:1])
    assert decoded.read_by == "decoder" and len(decoded.decoded) == len(decoded.blocks) == 2


def test_what_cannot_be_read(make):
    for options, message in (
        ({"num_latents": 0}, "the model thinks in text"),
        ({"num_latents": 2, "thought_source": "pause"}, "its thought source is 'pause'"),
    ):
        with pytest.raises(ModelError, match=message):
            think(make(**options), QUESTIONS)


def test_think_prints_each_pass_and_the_answer(capsys, make, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    looped, plain, text = (tmp_path / name for name in ("looped", "plain", "text"))
    make(num_latents=4, loops=2, latents_per_step=2, supervision="step_tokens").save_pretrained(looped)
    make(num_latents=2, supervision="decoder", supervised=True).save_pretrained(plain)
    make(num_latents=0).save_pretrained(text)
    code, out, error = neuralese(capsys, "think", looped, *QUESTIONS)
    lines = out.splitlines()
    lines = lines[lines.index(QUESTIONS[0]) :]  # libraries may speak before
    assert code == 0 and "\x1b" not in out, error
    assert "each latent was trained to say its token" in lines[1]
    labels = [f"{'' if loop else f'block {block}':9}loop {loop}" for block in (1, 2) for loop in range(3)]
    assert [line[:15] for line in lines[2:8]] == labels
    assert lines[8].startswith("answer ") and lines[8].endswith(" nats)") and QUESTIONS[1] in lines
    code, out, _ = neuralese(capsys, "think", looped, *QUESTIONS, "--json", "--noise", "gaussian:0.3")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [row["question"] for row in rows] == QUESTIONS
    assert set(rows[0]) == {"question", "read_by", "answer", "logprob", "blocks", "decoded"}
    assert set(rows[0]["blocks"][0][0]) == {"loop", "text", "tokens", "probabilities"}
    code, out, _ = neuralese(capsys, "think", plain, QUESTIONS[0])
    assert code == 0 and "the auxiliary decoder" in out and sum("  decoder  " in line for line in out.splitlines()) == 2
    assert_one_paragraph(neuralese(capsys, "think", text, QUESTIONS[0]), "the model thinks in text")
    assert_one_paragraph(neuralese(capsys, "think", text, ""), "The question is empty")
