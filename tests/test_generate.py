"""Sampling agrees with the training forward, and a sample depends on nothing but weights, prompt and seed."""

import pytest
import torch

from neuralese.pipeline.latent import ModelError, parse_noise
from neuralese.pipeline.latent.noise import LatentDraws
from neuralese.pipeline.latent.sampling import answers
from neuralese.pipeline.latent.sampling.answers import SamplingParams, token_draws
from neuralese.pipeline.latent.sampling.generate import generate
from neuralese.pipeline.latent.thoughts import suppress

QUESTIONS = ["3 + 4 * 2 - 1 =", "6 - 5 =", "1 * 2 + 3 + 4 =", "2 + 2 * 6 ="]


def sample(reasoner, prompts, **options):
    return reasoner.generate(prompts, max_new_tokens=8, **options)


def teacher_forced(reasoner, question, samples, temperature, noise):
    """Summed log-probs of the sampled answers from one training forward over prompt and answer."""
    totals = []
    for ids, seed in zip(samples.token_ids, samples.seeds, strict=True):
        prompt = reasoner.prompt_ids(question)
        labels = torch.tensor([[-100] * len(prompt) + ids])
        output = reasoner(
            input_ids=torch.tensor([prompt + ids]), labels=labels, noise=noise, noise_seeds=torch.tensor([seed])
        )
        logprobs = (suppress(output.logits, reasoner.config.token_ids) / temperature).log_softmax(-1)
        totals.append(logprobs.gather(1, torch.tensor(ids)[:, None]).sum().item())
    return totals


@pytest.mark.parametrize("noise", [None, "gaussian:0.4"])
@pytest.mark.parametrize("num_latents", [0, 1, 3])
@pytest.mark.parametrize("source", ["norm_matched", "pause"])
def test_logprobs_equal_a_teacher_forced_pass(make, num_latents, noise, source):
    if num_latents == 0 or source == "pause":
        noise = None  # it would have no latents to fall on
    reasoner = make(num_latents=num_latents, thought_source=source)
    drawn = sample(reasoner, QUESTIONS, n=3, temperature=1.3, noise=noise)
    for question, samples in zip(QUESTIONS, drawn, strict=True):
        expected = teacher_forced(reasoner, question, samples, 1.3, parse_noise(noise))
        assert samples.logprobs == pytest.approx(expected, abs=1e-4)


def test_greedy_text_is_that_of_transformers(make):
    reasoner = make(num_latents=0)
    (ours,) = sample(reasoner, QUESTIONS[:1])
    prompt = torch.tensor([reasoner.prompt_ids(QUESTIONS[0])])
    theirs = reasoner.model.generate(
        prompt, max_new_tokens=8, do_sample=False, suppress_tokens=list(reasoner.config.token_ids)
    )
    assert ours.token_ids[0] == theirs[0, prompt.size(1) :].tolist()


def test_samples_do_not_depend_on_the_batch(reasoner):
    options = {"n": 5, "temperature": 1.0, "noise": "gaussian:0.5"}
    together = sample(reasoner, QUESTIONS, **options)
    apart = sample(reasoner, QUESTIONS, batch_size=1, **options)
    for one, other in zip(together, apart, strict=True):
        assert one.texts == other.texts and one.seeds == other.seeds
        assert torch.allclose(one.latents, other.latents, atol=1e-5)
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_seeds_replay_samples_and_differ(reasoner):
    (first,) = sample(reasoner, QUESTIONS[:1], n=16, temperature=1.0, noise="gaussian:0.5")
    (again,) = sample(reasoner, QUESTIONS[:1], n=3, temperature=1.0, noise="gaussian:0.5", seeds=[first.seeds[4:7]])
    assert again.texts == first.texts[4:7]
    assert torch.allclose(again.latents, first.latents[4:7], atol=1e-5)
    assert len(set(first.seeds)) == 16 and len(set(first.texts)) > 1
    (other,) = sample(reasoner, QUESTIONS[:1], n=16, temperature=1.0, noise="gaussian:0.5", seed=1)
    assert other.texts != first.texts


def test_noise_alone_makes_greedy_answers_differ_and_no_noise_none(reasoner):
    (noisy,) = sample(reasoner, QUESTIONS[:1], n=8, noise="gaussian:3")
    (clean,) = sample(reasoner, QUESTIONS[:1], n=8)
    assert len(set(noisy.texts)) > 1
    assert len(set(clean.texts)) == 1


def test_token_draws_follow_the_distribution(reasoner):
    """First sampled token against its probability: within 4 standard errors for each token that is likely."""
    prompt = reasoner.prompt_ids(QUESTIONS[0])
    n = 4000
    drawn = generate(
        reasoner.model, [prompt], torch.zeros(n, dtype=torch.long), torch.arange(n), SamplingParams(1.0, 1), None, [1]
    )
    first = torch.tensor([ids[0] for ids in drawn.token_ids])
    probabilities = {int(t): float(p.exp()) for t, p in zip(first, drawn.logprobs[:, 0], strict=True)}
    assert len(probabilities) > 2
    for token, p in probabilities.items():
        share = (first == token).float().mean().item()
        assert abs(share - p) < 4 * (p * (1 - p) / n) ** 0.5 + 1e-3


def test_token_draws_come_from_seed_and_number_alone():
    seeds, number = torch.tensor([5, 5, -5, 6, 2**40 + 5]), torch.tensor([0, 1, 0, 0, 0])
    draws = token_draws(seeds, number, 10)
    assert len(draws.unique()) == 50  # also those of mirrored noise, which share no token
    for row in range(5):
        assert torch.equal(token_draws(seeds[[row]], number[[row]], 7)[0], draws[row, :7])
    noise = LatentDraws(seeds, 3, 10)
    for other in (noise.uniform(), noise.uniform(per_rollout=True), 1 - noise.uniform()):
        assert not torch.isin(draws, other).any()


def test_special_tokens_are_never_sampled(reasoner):
    with torch.no_grad():  # make them the most likely tokens by far
        reasoner.model.lm_head.weight = torch.nn.Parameter(reasoner.model.lm_head.weight.clone())
        for token in reasoner.config.token_ids:
            reasoner.model.lm_head.weight[token] *= 100
    (drawn,) = sample(reasoner, QUESTIONS[:1], n=64, temperature=1.0, noise="gaussian:0.5")
    assert not {t for ids in drawn.token_ids for t in ids} & set(reasoner.config.token_ids)


def test_answers_end_at_the_first_stop_token(reasoner):
    (drawn,) = sample(reasoner, QUESTIONS[:1], n=64, temperature=2.0)
    stop = reasoner.eos_token_ids[0]
    assert any(stop in ids for ids in drawn.token_ids)
    assert all(stop not in ids[:-1] and len(ids) <= 8 for ids in drawn.token_ids)


def test_the_longest_answer_defaults_to_what_the_context_window_leaves(reasoner):
    question = "1 + " * 25 + "1 ="  # 52 tokens and 5 of the latent block, in a window of 64
    (samples,) = reasoner.generate([question], n=8, temperature=3.0)
    assert max(map(len, samples.token_ids)) == 64 - len(reasoner.prompt_ids(question))


def test_no_prompts_give_no_samples(reasoner):
    """As on a process that has no problem left when there are fewer than processes."""
    assert sample(reasoner, [], n=4) == []


@pytest.mark.parametrize("options", [{}, {"jacobi_sweeps": 2}, {"jacobi_sweeps": 3}, {"loops": 2}])
def test_prompts_of_different_kinds_may_share_a_batch(make, options):
    """With and without latents, and ending in one: the first token comes from the last token of each."""
    reasoner = make(**options)
    start, latent, end = reasoner.config.token_ids
    prompts = [[6, 7, 8], [6, 7, 8, 9, start, latent, end], [6, 7, 8, latent, latent], [9, 6, latent, 7]]

    def draw(given):
        count = torch.arange(len(given))
        sampling = SamplingParams(temperature=1.0, max_new_tokens=6)
        return generate(reasoner.model, given, count, torch.tensor([5] * len(given)), sampling, None, [1])

    together = draw(prompts)
    for row, prompt in enumerate(prompts):
        alone = draw([prompt])
        assert together.token_ids[row] == alone.token_ids[0]
        length = len(alone.token_ids[0])
        assert torch.allclose(together.logprobs[row, :length], alone.logprobs[0], atol=1e-4)
        logits = reasoner(input_ids=torch.tensor([prompt])).logits[0, -1]
        first = suppress(logits, reasoner.config.token_ids).log_softmax(-1)[alone.token_ids[0][0]]
        assert torch.allclose(alone.logprobs[0, 0], first, atol=1e-4)


def test_no_room_for_an_answer_is_named(reasoner):
    with pytest.raises(ModelError, match="max_new_tokens=0"):
        reasoner.generate(QUESTIONS[:1], max_new_tokens=0)


def test_top_k_one_is_greedy(reasoner):
    (greedy,) = sample(reasoner, QUESTIONS[:1])
    (top1,) = sample(reasoner, QUESTIONS[:1], n=4, temperature=1.0, top_k=1)
    assert set(top1.texts) == set(greedy.texts)


@pytest.mark.parametrize(("question", "message"), [("  ", "question is empty"), ("1 + " * 40, "context window of 64")])
def test_questions_that_cannot_be_answered_are_named(reasoner, question, message):
    with pytest.raises(ModelError, match=message):
        sample(reasoner, [question])


@pytest.mark.parametrize("options", [{"num_latents": 0}, {"num_latents": 2, "thought_source": "pause"}])
def test_noise_without_latents_is_refused(make, options):
    with pytest.raises(ModelError, match="no latents to fall on"):
        sample(make(**options), QUESTIONS[:1], noise="gaussian:0.3")


@pytest.fixture
def rows_run(reasoner, monkeypatch):
    """Rows of every pass of the trunk, in order."""
    seen = []
    forward = type(reasoner.model.base_model).forward

    def counting(self, *args, inputs_embeds=None, **kwargs):
        seen.append(len(inputs_embeds))
        return forward(self, *args, inputs_embeds=inputs_embeds, **kwargs)

    monkeypatch.setattr(type(reasoner.model.base_model), "forward", counting)
    return seen


def test_answers_of_one_seed_share_their_thought_and_differ(reasoner, rows_run):
    """Each is what it is alone; the latents are made once."""
    options = {"noise": "gaussian:0.4", "temperature": 1.5, "max_new_tokens": 6}
    two = reasoner.generate(QUESTIONS[:2], seeds=[[4, 4, 9, 4], [9, 9, 9, 9]], **options)
    assert rows_run[:4] == [2, 3, 3, 3]
    for samples, seeds in zip(two, ([4, 4, 9, 4], [9, 9, 9, 9]), strict=True):
        for i, seed in enumerate(seeds):
            for j in range(i):
                same = torch.equal(samples.latents[i], samples.latents[j])
                assert same == (seeds[j] == seed)
        assert len({tuple(ids) for ids in samples.token_ids}) > 1
    (again,) = reasoner.generate(QUESTIONS[:1], seeds=[[4, 4]], **options)
    assert again.token_ids == two[0].token_ids[:2]
    assert again.logprobs == pytest.approx(two[0].logprobs[:2], abs=1e-4)
    (plain,) = reasoner.generate(QUESTIONS[:1], seeds=[[4]], **options)
    assert plain.token_ids == again.token_ids[:1]


@pytest.mark.parametrize("every", [3, 8, 100])
def test_answers_do_not_depend_on_how_often_their_ends_are_looked_for(reasoner, rows_run, monkeypatch, every):
    """As where each look would wait for a device. Passes after the last end are run and left out."""
    options = {"n": 16, "temperature": 2.0, "noise": "gaussian:0.1", "seed": 3, "max_new_tokens": 23}
    (often,) = reasoner.generate(QUESTIONS[:1], **options)
    longest, passes = max(map(len, often.token_ids)), len(rows_run)
    monkeypatch.setitem(answers.LOOKS, "cpu", every)
    (seldom,) = reasoner.generate(QUESTIONS[:1], **options)
    assert seldom.token_ids == often.token_ids and min(map(len, often.token_ids)) < longest
    assert seldom.logprobs == pytest.approx(often.logprobs, abs=1e-4)
    last = min(-(-longest // every) * every, 23)  # tokens drawn up to the look that finds all ended
    assert len(rows_run) - passes == passes - (longest - 1) + last - 1


def test_finished_answers_leave_the_batch(reasoner, rows_run):
    """No pass after the last one is needed, and rows that ended are not run on."""
    options = {"n": 32, "temperature": 2.0, "noise": "gaussian:0.1", "seed": 3, "max_new_tokens": 40}
    (together,) = reasoner.generate(QUESTIONS[:1], **options)
    steps = rows_run[4:]  # the question, then a pass a latent
    lengths = [len(ids) for ids in together.token_ids]
    assert rows_run[:4] == [1, 32, 32, 32] and len(steps) == max(lengths) - 1
    for step, rows in enumerate(steps):
        alive = sum(length > step + 1 for length in lengths)
        assert alive <= rows < 2 * alive
    assert steps[-1] < 32
    alone = reasoner.generate(QUESTIONS[:1] * 32, max_new_tokens=40, temperature=2.0, noise="gaussian:0.1",
                              batch_size=1, seeds=[[seed] for seed in together.seeds])  # fmt: skip
    assert [s.texts[0] for s in alone] == together.texts
    assert [s.logprobs[0] for s in alone] == pytest.approx(together.logprobs, abs=1e-4)
