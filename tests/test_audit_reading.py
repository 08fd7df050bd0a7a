"""What latents say: probes on data of known information, lens and sensitivity against naive passes, text by hand."""

import math

import numpy as np
import pytest
import torch
from audit_models import SETTINGS, copying, word_problem, word_problems
from reference import latent_forward, latent_inputs
from threadpoolctl import threadpool_info, threadpool_limits

from neuralese.pipeline.evaluate.audit import probes as probes_module
from neuralese.pipeline.evaluate.audit.interventions import answer
from neuralese.pipeline.evaluate.audit.probes import classes_of, fit, held_out_logprobs, probe_steps, result_of
from neuralese.pipeline.evaluate.audit.readings import (
    decoder_accuracy,
    lens,
    lens_and_steps,
    measure_places,
    read,
    sensitivity,
)
from neuralese.pipeline.evaluate.audit.text_chain import compressed_bits, measure_text
from neuralese.pipeline.latent.geometry import effective_ranks
from neuralese.pipeline.latent.thoughts import suppress
from neuralese.pipeline.recipe.schema import EvaluateSection


def channel(error, count=1200, number=4):
    """Results of `number` values and latents that show one of them, another one with probability `error`."""
    rng = np.random.default_rng(0)
    truth = rng.integers(number, size=count)
    shown = np.where(rng.random(count) < error, (truth + rng.integers(1, number, size=count)) % number, truth)
    latents = torch.eye(number)[torch.from_numpy(shown)] + 0.01 * torch.from_numpy(rng.normal(size=(count, number)))
    return latents.float(), truth


@pytest.mark.parametrize("error", [0.0, 0.1, 0.4, 0.75])
def test_bits_of_a_channel_of_known_information(error):
    """I = log2 4 + (1 − e) log2(1 − e) + e log2(e / 3): 2, 1.37, 0.40 and 0 bits. The probe finds nearly all of it."""
    known = 2.0 + sum(p * math.log2(p / n) for p, n in ((1 - error, 1), (error, 3)) if p)
    latents, truth = channel(error)
    steps = [[str(value)] for value in truth]
    (found,) = probe_steps(latents[:, None], torch.ones(len(steps), dtype=torch.long), steps, 200, 0)
    assert known - 0.12 <= found.bits.value <= known + 0.05
    assert found.bits.ci95[0] <= found.bits.value <= found.bits.ci95[1]
    assert found.entropy == pytest.approx(2.0, abs=0.01) and found.classes == 4
    assert found.accuracy.value == pytest.approx(max(1 - error, 0.25), abs=0.06)
    assert found.shuffled == pytest.approx(0.25, abs=0.06) and found.majority == pytest.approx(0.25, abs=0.03)


def test_every_latent_is_probed_for_every_step_that_enough_problems_have():
    first, truth = channel(0.0, 200)
    latents = torch.stack([first, torch.randn(200, 4)], 1)
    steps = [[str(value), str(value % 2)][: 2 if row < 100 else 1] for row, value in enumerate(truth)]
    counts = torch.where(torch.arange(200) % 2 == 0, 2, 1)
    found = {(one.latent, one.step): one for one in probe_steps(latents, counts, steps, 50, 0)}
    assert {cell: one.accuracy.n for cell, one in found.items()} == {(1, 1): 200, (1, 2): 100, (2, 1): 100, (2, 2): 50}
    assert found[1, 2].bits.value > 0.7 and found[2, 2].bits.value < 0.2
    few = probe_steps(latents[:30], counts[:30], steps[:30], 50, 0)
    assert few == []


def test_probes_are_fitted_on_one_thread(monkeypatch):
    """Threads that wait for each other in fits this small took 20 times as long."""
    seen, plain = [], fit

    def threads():
        return [pool["num_threads"] for pool in threadpool_info()]

    def noted(*arguments):
        seen.extend(threads())
        return plain(*arguments)

    monkeypatch.setattr(probes_module, "fit", noted)
    latents, truth = channel(0.1, count=80)
    with threadpool_limits(limits=2):
        given = threads()
        probe_steps(latents[:, None], torch.ones(80), [[str(result)] for result in truth], 20, 0)
        assert threads() == given and max(given) == 2
    assert seen and set(seen) == {1}


def test_a_probe_is_asked_about_problems_it_has_not_seen():
    """With more dimensions than problems any labels can be fitted; only unseen ones tell."""
    inputs, labels = torch.randn(80, 200, dtype=torch.float64), np.arange(80) % 2
    assert (fit(inputs.numpy(), labels, 2).logprobs(inputs.numpy()).argmax(1) == labels).all()
    unseen = held_out_logprobs(inputs, labels, np.arange(80) // 2 % 4)  # both classes in each fold
    assert 0.25 < (unseen.argmax(1) == labels).mean() < 0.75
    assert np.allclose(np.exp(unseen).sum(1), 1, atol=1e-12)


@pytest.mark.parametrize("number", [2, 3, 7])
def test_fit_is_at_the_minimum_of_its_loss(number):
    inputs = np.random.default_rng(0).normal(size=(60, 3))
    labels = np.arange(60) % number
    found = fit(inputs, labels, number)
    weight, bias = (torch.from_numpy(part).requires_grad_() for part in (found.weight, found.bias))
    loss = torch.nn.functional.cross_entropy(torch.from_numpy(inputs) @ weight + bias, torch.from_numpy(labels))
    (loss + probes_module.PENALTY / 2 * weight.square().sum()).backward()
    assert weight.shape == (3, number) and max(weight.grad.abs().max(), bias.grad.abs().max()) < 1e-6


def test_a_class_that_a_probe_was_not_shown_has_a_chance_all_the_same():
    """Of 5 classes 3 and then 1 were shown in 60 problems: each of the others gets 1 / (60 + 5)."""
    inputs = np.random.default_rng(0).normal(size=(60, 3))
    chances = np.exp(fit(inputs, np.array([0, 1, 3])[np.arange(60) % 3], 5).logprobs(inputs))
    assert np.allclose(chances[:, [2, 4]], 1 / 65) and np.allclose(chances.sum(1), 1)
    assert np.allclose(chances[:, [0, 1, 3]].sum(1), 63 / 65)
    one = np.exp(fit(inputs, np.full(60, 2), 5).logprobs(inputs))
    assert np.allclose(one, [[1 / 65, 1 / 65, 61 / 65, 1 / 65, 1 / 65]])


def test_results_and_classes():
    assert [result_of(step) for step in ("<<48/2=24>>", "22", "Tom is a cat.", "x = 3")] == [
        "24", "22", "Tom is a cat", "3",
    ]  # fmt: skip
    results = ["a"] * 9 + ["b"] * 8 + ["c"] * 7 + ["d"]
    assert classes_of(results).tolist() == [0] * 9 + [1] * 8 + [2] * 8


def test_lens_reads_the_state_that_a_latent_is_made_from(reasoner):
    problems = word_problems(1)
    own = answer(reasoner, [type(problems[0])(q, ("3",), "5") for q in ("3 + 4 =", "6 - 5 * 2 =")], SETTINGS)
    found, probabilities = lens(reasoner, own)
    for row, problem in enumerate(own.problems):
        ids = reasoner.prompt_ids(problem.question)
        logits, _ = latent_forward(reasoner.model, ids)
        for place in range(3):
            best = suppress(logits[len(ids) - 3 + place - 1], reasoner.config.token_ids).softmax(-1).topk(3)
            assert torch.equal(found[row, place], best.indices)
            assert torch.allclose(probabilities[row, place], best.values, atol=1e-5)


def hits(reasoner, own):
    return [
        [token == step for token, step in place]
        for place in lens_and_steps(reasoner, own, lens(reasoner, own)[0][..., 0])
    ]


def test_lens_hits_count_the_first_token_of_the_step_that_a_latent_stands_for():
    reasoner = copying(num_latents=2)
    word = reasoner.tokenizer.convert_tokens_to_ids
    with torch.no_grad():  # the head reads s5 wherever a column lies on the axis of q5
        for number in range(4):
            reasoner.model.lm_head.weight[word(f"s{number}"), word(f"q{number}")] = 2.0
    own = answer(reasoner, [word_problem(i) for i in range(6)], SETTINGS)
    first, second = hits(reasoner, own)
    assert first == [True] * 4 + [False] * 2 and second == [False] * 6
    places = measure_places(reasoner, own, lens(reasoner, own)[0], 50)
    assert [place.lens.value for place in places] == [pytest.approx(4 / 6), 0.0]
    assert [place.common for place in places] == [pytest.approx(1 / 6)] * 2
    twice = answer(reasoner, [word_problem(i // 2) for i in range(6)], SETTINGS)
    assert measure_places(reasoner, twice, lens(reasoner, twice)[0], 50)[0].common == pytest.approx(2 / 6)
    (reading,) = read(reasoner, own, *lens(reasoner, own), 1)
    assert reading.question == "q0" and reading.lens[0][0] == "s0" and reading.steps == ("s0", "t0")
    assert reading.hits == [True, False] and len(reading.probabilities) == 2
    assert reading.decoded is None and decoder_accuracy(reasoner, own, 50) is None


def test_several_latents_stand_for_a_step():
    reasoner = copying(num_latents=5, latents_per_step=2)
    word = reasoner.tokenizer.convert_tokens_to_ids
    with torch.no_grad():
        reasoner.model.lm_head.weight[word("s1"), word("q1")] = 2.0
        reasoner.model.lm_head.weight[word("t2"), word("q2")] = 2.0
    own = answer(reasoner, [word_problem(1), word_problem(2)], SETTINGS)
    assert hits(reasoner, own) == [
        [True, False],
        [True, False],
        [False, True],
        [False, True],
        [],
    ]  # the fifth stands for no step


@pytest.mark.parametrize("backprop_steps", [None, 1], ids=["all", "trained through one"])
def test_sensitivity_is_the_derivative_through_all_later_latents(make, backprop_steps):
    reasoner = make(num_latents=3, backprop_steps=backprop_steps)
    problem = word_problem(0)
    own = answer(reasoner, [type(problem)(q, (), "5") for q in ("3 + 4 =", "6 - 5 * 2 =")], SETTINGS)
    expected = torch.zeros(3)
    for row, one in enumerate(own.problems):
        prompt, written = reasoner.prompt_ids(one.question), own.token_ids[row]
        inputs = latent_inputs(reasoner.model, prompt + written)
        latents = [inputs[len(prompt) - 3 + place] for place in range(3)]
        for place in range(3):
            # The rest of the row anew from a latent that is a leaf, so that later ones depend on it.
            leaf = latents[place].detach().requires_grad_()
            embeds = [*inputs[: len(prompt) - 3 + place].detach(), leaf]
            for later in range(place + 1, 3):
                states = reasoner.model.base_model(inputs_embeds=torch.stack(embeds)[None], use_cache=False)
                embeds.append(reasoner.model.thought_source(states.last_hidden_state[0, -1], reasoner.model).latent)
                assert len(embeds) == len(prompt) - 3 + later + 1
            embeds += list(reasoner.model.get_input_embeddings()(torch.tensor(written)))
            logits = reasoner.model(inputs_embeds=torch.stack(embeds)[None], use_cache=False).logits[0]
            logprobs = logits.log_softmax(-1)[len(prompt) - 1 : -1]
            total = logprobs[torch.arange(len(written)), torch.tensor(written)].sum()
            (gradient,) = torch.autograd.grad(total, leaf)
            expected[place] += leaf.norm() * gradient.norm() / 2
    assert torch.allclose(sensitivity(reasoner, own), expected, rtol=1e-3)
    assert all(parameter.grad is None for parameter in reasoner.model.parameters())
    assert reasoner.model.latent_watch is None and reasoner.config.backprop_steps == backprop_steps


@pytest.mark.parametrize("options", [{"jacobi_sweeps": 2}, {"loops": 2}])
def test_sensitivity_of_latents_made_at_once_is_that_of_the_last_round(make, options):
    reasoner = make(num_latents=3, **options)
    own = answer(reasoner, [word_problem(0)], SETTINGS)
    prompt, written = reasoner.prompt_ids(own.problems[0].question), own.token_ids[0]
    embeds = reasoner.model.get_input_embeddings()(torch.tensor(prompt + written)).detach()
    places = [place for place, token in enumerate(prompt) if token == reasoner.config.token_ids[1]]
    latents = own.latents[0].clone().requires_grad_()
    embeds = embeds.index_put((torch.tensor(places),), latents)
    logits = reasoner.model(inputs_embeds=embeds[None], use_cache=False).logits[0]
    logprobs = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    total = logprobs[torch.arange(len(written)), torch.tensor(written)].sum()
    (gradient,) = torch.autograd.grad(total, latents)
    expected = latents.norm(dim=1) * gradient.norm(dim=1)
    assert torch.allclose(sensitivity(reasoner, own), expected, rtol=1e-3)


def test_geometry_by_hand():
    reasoner = copying()
    own = answer(reasoner, [word_problem(0), word_problem(0), word_problem(1)], SETTINGS)
    (first, _) = measure_places(reasoner, own, lens(reasoner, own)[0], 20)
    unit = torch.nn.functional.normalize(own.latents[:, 0], dim=-1)
    pairs = [unit[0] @ unit[1], unit[0] @ unit[2], unit[1] @ unit[2]]
    assert first.cosine == pytest.approx(float(sum(pairs)) / 3, abs=1e-4) and pairs[0] > 0.999 > 0.5 > pairs[1]
    assert first.effective_rank == pytest.approx(1.0, abs=1e-3)  # three points on a line
    assert first.rms == pytest.approx(own.latents[:, 0].pow(2).mean().sqrt().item() / reasoner.config.embedding_rms)
    ranks = effective_ranks(torch.stack([torch.eye(4), torch.ones(4, 4).triu()], 1))
    assert ranks[0].item() == pytest.approx(3.0, abs=1e-4) and ranks[1] < 3


def test_entropy_of_a_text_that_is_known():
    """A head of zeros writes every word but the three special ones with the same chance, until the answer's marker."""
    reasoner = copying()
    with torch.no_grad():
        reasoner.model.lm_head.weight.zero_()
    settings = EvaluateSection(max_new_tokens=12, bootstrap=20)
    found = measure_text(reasoner, word_problems(200), settings, "here", 0)
    size = reasoner.model.lm_head.out_features - 3
    assert found.entropy == pytest.approx(math.log2(size), abs=1e-4)
    assert found.compressed == pytest.approx(math.log2(size), rel=0.15)
    assert found.checkpoint == "here" and found.accuracy.value < 0.2


def test_a_text_without_choice_has_no_entropy_and_only_what_the_question_chose():
    """q5 is followed by s5, then by the marker: one word of thought, which tells the question."""
    reasoner = copying()
    word = reasoner.tokenizer.convert_tokens_to_ids
    with torch.no_grad():
        reasoner.model.lm_head.weight.zero_()
        for number in range(12):
            reasoner.model.lm_head.weight[word(f"s{number}"), word(f"q{number}")] = 9.0
            reasoner.model.lm_head.weight[word("###"), word(f"s{number}")] = 9.0
    found = measure_text(reasoner, word_problems(60), EvaluateSection(max_new_tokens=4, bootstrap=20), "here", 0)
    assert found.tokens == 1.0 and found.entropy < 1e-3
    rng = np.random.default_rng(0)
    assert compressed_bits(rng.integers(16, size=5000).tolist()) == pytest.approx(4.0, abs=0.2)
    assert compressed_bits([7] * 5000) < 0.1
    many = rng.permutation(70_000).tolist()  # more numbers than two bytes hold, and those of UTF-16 surrogates
    assert compressed_bits(many) > 0


def test_a_model_that_writes_no_thought_has_no_text():
    reasoner = copying()
    word = reasoner.tokenizer.convert_tokens_to_ids
    with torch.no_grad():
        reasoner.model.lm_head.weight.zero_()
        reasoner.model.lm_head.weight[word("###"), : reasoner.model.lm_head.out_features] = 50.0
    settings = EvaluateSection(max_new_tokens=3, bootstrap=20)
    assert measure_text(reasoner, word_problems(4), settings, "here", 0) is None
