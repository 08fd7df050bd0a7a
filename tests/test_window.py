"""Thoughts that see the last few latents of their row, with or without the question: exact, and of constant memory."""

import itertools

import pytest
import torch
from batches import ROWS, L, assert_same_gradients, batch, encode, gradients, unlabelled
from reference import latent_forward, latent_inputs, latent_loss, logits_of
from test_architectures import ARCHITECTURES
from test_generate import QUESTIONS, teacher_forced
from test_reasoner import SOURCES
from transformers import GPT2Config, GPT2LMHeadModel

from neuralese.pipeline.latent import LatentConfig, ModelError, parse_noise
from neuralese.pipeline.latent.batch import Batch
from neuralese.pipeline.latent.engine import room
from neuralese.pipeline.latent.engine.decoder import CachedDecoder
from neuralese.pipeline.latent.engine.packed import Keep
from neuralese.pipeline.latent.noise import Replacement
from neuralese.pipeline.latent.sampling.answers import SamplingParams
from neuralese.pipeline.latent.sampling.generate import generate
from neuralese.pipeline.latent.thoughts import Thought

ALL = 9  # more than any row has
WINDOWS = [*itertools.product((1, 2, 3, ALL), (True, False)), (None, False)]
BOTH = [(1, True), (2, True), (1, False), (2, False), (None, False)]


@pytest.fixture
def forgotten(monkeypatch):
    """Frees what is not seen before every pass that may; the columns of each time that something was freed."""
    monkeypatch.setattr(room, "SLACK", 0)
    seen, forget = [], CachedDecoder._forget

    def counted(self, rules):
        before = self.columns.size
        forget(self, rules)
        seen.append((before, self.columns.size))

    monkeypatch.setattr(CachedDecoder, "_forget", counted)
    return seen


@pytest.mark.parametrize(("window", "sees"), WINDOWS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_loss_and_gradients_equal_the_naive_forward(make, window, sees, side):
    reasoner = make(supervision_weight=0.3, window=window, sees_question=sees)
    expected = latent_loss(reasoner.model, *encode(reasoner), 0.3)
    theirs = gradients(reasoner.model, expected)
    output = reasoner(**batch(reasoner, side))
    assert torch.allclose(output.loss, expected, atol=1e-5)
    assert_same_gradients(gradients(reasoner.model, output.loss), theirs)


@pytest.mark.parametrize(("source", "options"), [*SOURCES, ("pause", {})])
@pytest.mark.parametrize(("window", "sees"), [(1, True), (2, False)])
def test_every_thought_source_equals_the_naive_forward(make, source, options, window, sees):
    """The controls see no more than the latents in whose place they stand."""
    reasoner = make(
        thought_source=source, thought_options=options, supervision_weight=0.3, window=window, sees_question=sees
    )
    expected = latent_loss(reasoner.model, *encode(reasoner), 0.3)
    theirs = gradients(reasoner.model, expected)
    output = reasoner(**batch(reasoner, "left"))
    assert torch.allclose(output.loss, expected, atol=1e-5)
    assert_same_gradients(gradients(reasoner.model, output.loss), theirs)


@pytest.mark.parametrize(("window", "sees"), WINDOWS)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("has_gradient", [True, False])
def test_logits_and_latents_equal_the_naive_forward(make, forgotten, window, sees, side, has_gradient):
    reasoner = make(window=window, sees_question=sees)
    rows = [*ROWS, [6, *[L, 7, L] * 6, 8]]
    inputs = unlabelled(batch(reasoner, side, rows))
    with torch.set_grad_enabled(has_gradient):
        output = reasoner(**inputs)
    # The other rows have few latents; they run in the last passes, and one has none and keeps its question.
    assert bool(forgotten) == (not has_gradient and window is not None)
    for row, ids in enumerate(encode(reasoner, rows)[0]):
        expected, latents = latent_forward(reasoner.model, ids)
        assert torch.allclose(output.logits[row][inputs["attention_mask"][row].bool()], expected, atol=1e-5)
        for ours, theirs in zip(output.latents[row], latents, strict=False):
            assert torch.allclose(ours, theirs, atol=1e-5)
        assert not output.latents[row, len(latents) :].any()


def test_each_window_is_another_computation(make):
    """Else the tests above would not tell them apart."""
    losses = []
    for window, sees in [*BOTH, (3, True), (3, False), (None, True)]:
        reasoner = make(window=window, sees_question=sees)
        losses.append(reasoner(**batch(reasoner, "right")).loss.item())
    assert min(abs(a - b) for a, b in itertools.combinations(losses, 2)) > 1e-4
    for sees in (True, False):  # a window that is never full hides nothing
        full, none = make(window=ALL, sees_question=sees), make(sees_question=sees)
        assert full(**batch(full, "right")).loss.item() == pytest.approx(none(**batch(none, "right")).loss.item(), 1e-6)


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2-window", "mistral", "gemma3"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(("window", "sees"), [(1, True), (2, False)])
def test_architectures_equal_the_naive_forward(make, forgotten, name, attention, window, sees):
    model_class, config = ARCHITECTURES[name]()
    config._attn_implementation = attention
    options = {"window": window, "sees_question": sees, "supervision_weight": 0.5, "thought_source": "raw"}
    reasoner = make(model_class, config, num_latents=6, **options)
    assert reasoner.model.base_model.config._attn_implementation == attention
    expected = latent_loss(reasoner.model, *encode(reasoner), 0.5)
    theirs = gradients(reasoner.model, expected)
    for side in ("left", "right"):
        output = reasoner(**batch(reasoner, side))
        assert torch.allclose(output.loss, expected, atol=1e-5)
        assert_same_gradients(gradients(reasoner.model, output.loss), theirs, 2e-5)
    model = reasoner.model.train()
    model.gradient_checkpointing_enable()
    assert_same_gradients(gradients(model, reasoner(**batch(reasoner, "left")).loss), theirs, 2e-5)
    model.eval()
    assert not forgotten  # what a gradient needs stays
    assert_sampling_is_the_forward(reasoner)
    assert forgotten


def assert_sampling_is_the_forward(reasoner):
    sampling = {"n": 3, "temperature": 1.3, "noise": "gaussian:0.4", "max_new_tokens": 8}
    drawn = reasoner.generate(QUESTIONS, **sampling)
    alone = reasoner.generate(QUESTIONS, batch_size=1, **sampling)
    for question, samples, single in zip(QUESTIONS, drawn, alone, strict=True):
        expected = teacher_forced(reasoner, question, samples, 1.3, parse_noise("gaussian:0.4"))
        assert samples.logprobs == pytest.approx(expected, abs=1e-4)
        assert single.texts == samples.texts


@pytest.mark.parametrize(("window", "sees"), BOTH)
@pytest.mark.parametrize("num_latents", [1, 2, 7])
@pytest.mark.parametrize("delimiters", [False, True])
def test_sampling_is_the_forward(make, forgotten, window, sees, num_latents, delimiters):
    assert_sampling_is_the_forward(
        make(num_latents=num_latents, window=window, sees_question=sees, delimiters=delimiters)
    )
    assert forgotten or (sees and num_latents <= window + 1)


def test_prompts_of_different_kinds_may_share_a_batch(make, forgotten):
    """With and without latents, ending in one, with tokens between them."""
    reasoner = make(window=1, sees_question=False)
    start, latent, end = reasoner.config.token_ids
    prompts = [[6, 7, 8, *[latent] * 5], [6, 7, 8, 9, start, latent, end], [9, 6, latent, 7, 8, latent, latent, 7]]

    def draw(given):
        sampling = SamplingParams(temperature=1.0, max_new_tokens=6)
        return generate(reasoner.model, given, torch.arange(len(given)), torch.tensor([5] * len(given)), sampling,
                        None, [1])  # fmt: skip

    for mixed in (prompts, [*prompts, [6, 7, 8]]):
        together = draw(mixed)
        for row, prompt in enumerate(mixed):
            alone = draw([prompt])
            assert together.token_ids[row] == alone.token_ids[0]
            ids = prompt + alone.token_ids[0]
            logits, _ = latent_forward(reasoner.model, ids)
            logits[:, list(reasoner.config.token_ids)] = -torch.inf
            expected = logits.log_softmax(-1)[range(len(prompt) - 1, len(ids) - 1), alone.token_ids[0]]
            for drawn, place in ((together, row), (alone, 0)):
                assert torch.allclose(drawn.logprobs[place, : len(expected)], expected, atol=1e-4)
    assert forgotten


@pytest.mark.parametrize(("window", "sees"), BOTH)
def test_thoughts_that_end_early_keep_what_their_answer_sees(make, forgotten, window, sees):
    reasoner = make(num_latents=6, window=window, sees_question=sees, stop_head=True, delimiters=True)
    torch.nn.init.normal_(reasoner.model.stop_head.weight)
    questions = [f"{a} + {b} =" for a in range(1, 5) for b in range(1, 5)]
    drawn = reasoner.generate(questions, max_new_tokens=4)
    counts = {samples.num_latents[0] for samples in drawn}
    assert len(counts) > 1
    latent = reasoner.config.token_ids[1]
    for question, samples in zip(questions, drawn, strict=True):
        prompt = reasoner.prompt_ids(question)
        first = prompt.index(latent)
        prompt = prompt[:first] + [latent] * samples.num_latents[0] + prompt[first + 6 :]
        ids = prompt + samples.token_ids[0]
        logits, _ = latent_forward(reasoner.model, ids)
        logits[:, list(reasoner.config.token_ids)] = -torch.inf
        picked = logits.log_softmax(-1)[range(len(prompt) - 1, len(ids) - 1), samples.token_ids[0]]
        assert samples.logprobs[0] == pytest.approx(picked.sum().item(), abs=1e-4)


@pytest.mark.parametrize(("window", "sees"), [(1, True), (2, False)])
def test_noise_falls_as_in_the_naive_forward(make, window, sees):
    reasoner, noise = make(window=window, sees_question=sees), parse_noise("gaussian:0.5")
    seeds = torch.tensor([3, 1, 4, 1, 5])
    noisy = reasoner(**unlabelled(batch(reasoner, "right")), noise=noise, noise_seeds=seeds)
    for row, ids in enumerate(encode(reasoner)[0]):
        epsilon = noise.sample_batch(seeds[[row]], ids.count(reasoner.config.token_ids[1]), 32)[0]
        expected, latents = latent_forward(reasoner.model, ids, epsilon, lambda z, e: noise.apply(Thought(z), e))
        assert torch.allclose(noisy.logits[row, : len(ids)], expected, atol=1e-5)
        for ours, theirs in zip(noisy.latents[row], latents, strict=False):
            assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_truncated_backpropagation_equals_the_naive_one(make, steps):
    reasoner = make(supervision_weight=0.5, backprop_steps=steps, window=2, sees_question=False)
    theirs = gradients(reasoner.model, latent_loss(reasoner.model, *encode(reasoner), 0.5, backprop_steps=steps))
    assert_same_gradients(gradients(reasoner.model, reasoner(**batch(reasoner, "left")).loss), theirs)


def test_deferred_sums_are_the_ordinary_ones(make, monkeypatch):
    reasoner = make(window=1, sees_question=False)
    inputs = batch(reasoner, "right")
    deferred = gradients(reasoner.model, reasoner(**inputs).loss)
    monkeypatch.setattr("neuralese.pipeline.latent.engine.deferred._can_defer", lambda module: False)
    assert_same_gradients(gradients(reasoner.model, reasoner(**inputs).loss), deferred)


def test_pause_tokens_sample_what_the_forward_says(make):
    for source in ("pause", "pause_multi"):
        reasoner = make(num_latents=3, window=1, sees_question=False, thought_source=source)
        drawn = reasoner.generate(QUESTIONS, n=2, temperature=1.3, max_new_tokens=6)
        for question, samples in zip(QUESTIONS, drawn, strict=True):
            expected = teacher_forced(reasoner, question, samples, 1.3, None)
            assert samples.logprobs == pytest.approx(expected, abs=1e-4)
            prompt = reasoner.prompt_ids(question)
            logits = logits_of(reasoner.model, latent_inputs(reasoner.model, prompt), prompt)[-1]
            logits[list(reasoner.config.token_ids)] = -torch.inf
            first = reasoner.generate([question], max_new_tokens=1)[0].token_ids[0][0]
            assert first == logits.argmax()


def test_what_the_state_does_not_carry_is_gone(make):
    """With the latents of another question the answer is as likely as after that question."""
    sampling = {"max_new_tokens": 6}
    for sees, same in ((False, True), (True, False)):
        reasoner = make(num_latents=3, window=1, sees_question=sees)
        questions = ["3 + 4 =", "6 - 5 ="]  # of one length, so that positions are the same
        own = reasoner.generate(questions, **sampling)
        put = torch.cat([samples.latents for samples in own]).flip(0)
        swapped = reasoner.generate(questions, noise=Replacement(latents=put), seeds=[[0], [1]], **sampling)
        found = [samples.logprobs[0] for samples in swapped]
        assert (found == pytest.approx([samples.logprobs[0] for samples in own[::-1]], abs=1e-4)) == same


def columns_kept(reasoner, num_latents, spare=4):
    """Columns of the buffers after the first pass, at their most, and at the end of a thought."""
    ids = torch.tensor([[6, 7, 8, 9, 10, *[reasoner.config.token_ids[1]] * num_latents]] * 2)
    batch, seen = Batch.of(ids, None, reasoner.config.token_ids[1]), []
    run = CachedDecoder.__call__

    def measured(self, *args, **options):
        states = run(self, *args, **options)
        seen.append({buffer.size(2) for layer in self.cache.layers for buffer in layer.buffers})
        return states

    CachedDecoder.__call__ = measured
    try:
        with torch.no_grad():
            reasoner.model.run_latents(batch, num_latents, keep=Keep(spare=spare))
    finally:
        CachedDecoder.__call__ = run
    (first,), *_, (last,) = seen
    return first, max(max(sizes) for sizes in seen), last


@pytest.mark.parametrize("window", [1, 4])
def test_the_memory_of_a_thought_does_not_grow_with_it(make, window):
    def columns(num_latents, **latent):
        config = GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=512)
        return columns_kept(make(GPT2LMHeadModel, config, **latent), num_latents)

    for count in (100, 400):
        # The question, what is in sight of a latent, the latent, columns between two moves, and those for the answer.
        bound = 5 + window + 1 + room.SLACK + 4
        first, most, last = columns(count, window=window)
        assert last <= first == most == bound
        first, most, last = columns(count, window=window, sees_question=False)
        assert first == most == 5 + 1 + room.SLACK + 4  # only the first latent sees the question
        assert last <= bound - 5
        assert columns(count) == (5 + count + 4,) * 3
        assert columns(count, sees_question=False) == (5 + count + 4, 5 + count + 4, count + 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window=0 .* at least 1"),
        (
            {"window": 2, "jacobi_sweeps": 2},
            "window needs latents made one after the other. Remove it or jacobi_sweeps",
        ),
        ({"sees_question": False, "loops": 2}, "sees_question=false needs .* Remove it or loops"),
    ],
)
def test_sections_that_contradict_themselves_are_refused(options, message):
    with pytest.raises(ModelError, match=message):
        LatentConfig(**options)
