"""`rl.step_tokens_weight`: labels on the latents of rollouts, with their gradient, through a whole run."""

import json

import pytest
import torch
import torch.nn.functional as F
from reference import latent_inputs, looped_inputs
from runs import tiny
from test_grpo import make_trainer, rollouts

from neuralese.data.errors import UserError
from neuralese.data.problem import Problem
from neuralese.pipeline import load_reasoner
from neuralese.pipeline.latent import parse_noise
from neuralese.pipeline.latent.supervision import build_supervision
from neuralese.pipeline.latent.thoughts import Thought, suppress
from neuralese.pipeline.model.reading import read_latents
from neuralese.pipeline.problems.encode import encode
from neuralese.pipeline.run.train import run
from neuralese.pipeline.train.rl.legibility import read_thoughts
from neuralese.pipeline.train.rl.step_labels import StepLabels, at_placeholders

NOISE = parse_noise("gaussian:0.4")


def labels_of(reasoner, problems, weight):
    encoded = encode(problems, reasoner.tokenizer)
    questions = [problem.question for problem in problems]
    return StepLabels.make(weight, questions, encoded, reasoner.config, reasoner.tokenizer.eos_token_id)


def test_labels_are_the_tokens_of_the_steps(make, problems):
    reasoner = make(num_latents=4, latents_per_step=2, supervision="step_tokens")
    (first, *_), some = (
        problems,
        labels_of(make(num_latents=4, latents_per_step=2, supervision="step_tokens"), problems, 1),
    )
    tokens = reasoner.tokenizer.convert_tokens_to_ids(list(first.steps[:2]))
    assert some.rows([first.question]).tolist() == [[tokens[0], -100, tokens[1], -100]]
    latent = reasoner.config.token_ids[1]
    ids = torch.tensor([[0, 7, latent, 8, latent, latent, 9]])
    assert at_placeholders(torch.tensor([[1, 2, -100]]), ids, latent).tolist() == [[-100, -100, 1, -100, 2, -100, -100]]


@pytest.mark.parametrize(
    ("options", "estimator"),
    [({"loops": 2}, "replay"), ({}, "replay"), ({}, "mix:0.5")],  # no density in loops
)
def test_the_gradient_is_that_of_the_labels_under_the_noise_of_the_rollouts(
    make, problems, tmp_path, options, estimator
):
    reasoner = make(num_latents=3, supervision="step_tokens", **options)
    reasoner.model.supervision = build_supervision(reasoner.model, "step_tokens", {})
    trainer = make_trainer(reasoner, problems, tmp_path, how={"estimator": estimator})
    trainer.step_labels = labels_of(reasoner, problems, 0.7)
    inputs = rollouts(trainer)
    trainer.current_gradient_accumulation_steps = 2
    found = []
    for labels in (trainer.step_labels, None):
        given = {key: value for key, value in inputs.items() if labels is not None or key != "slot_labels"}
        trainer.model.zero_grad()
        trainer.compute_loss(trainer.model, given).backward()
        found.append({name: p.grad.clone() for name, p in trainer.model.named_parameters()})
    trainer.model.zero_grad()
    total, count = 0.0, 0
    for row in range(len(inputs["prompt_ids"])):
        ids = inputs["prompt_ids"][row][inputs["prompt_mask"][row].bool()].tolist()
        loops = reasoner.config.loops
        (epsilon,) = NOISE.sample_batch(inputs["noise_seeds"][[row]], 3, 32, loops)
        apply = lambda z, e: NOISE.apply(Thought(z), e)  # noqa: E731
        made = (looped_inputs if loops else latent_inputs)(reasoner.model, ids, epsilon, apply)
        logits = reasoner.model(inputs_embeds=made[None], use_cache=False).logits[0]
        places = [place for place, token in enumerate(ids) if token == reasoner.config.token_ids[1]]
        for place, label in zip(places, inputs["slot_labels"][row], strict=True):
            if label != -100:
                total = total + F.cross_entropy(logits[place - 1], label)
                count += 1
    (0.7 * total / count / 2).backward()
    for name, parameter in trainer.model.named_parameters():
        difference = found[0][name] - found[1][name]
        assert (difference - parameter.grad).norm() <= 1e-3 * parameter.grad.norm() + 1e-6, name
    watched = trainer.watched.take()["total", "thought/step_tokens_loss"]
    assert watched.item() == pytest.approx((total / count).item(), rel=1e-4)


@pytest.mark.parametrize(
    "overrides",
    [[], ["rl.algorithm=ppo"], ["rl.equal_groups=resample"], ["model.lora={r: 4}", "rl.noise=gaussian:0.3@first"]],
    ids=["grpo", "ppo", "resample", "lora"],
)
def test_a_run_keeps_the_labels(tmp_path, overrides):
    options = ["latent.loops=2", "curriculum.supervision=step_tokens", "rl.step_tokens_weight=0.3", *overrides]
    run(tiny(tmp_path, "tracking.wandb=false", *options))
    rows = [json.loads(line) for line in (tmp_path / "tiny" / "metrics.jsonl").read_text().splitlines()]
    logged = [row["thought/step_tokens_loss"] for row in rows if row["stage"] == "rl" and "loss" in row]
    assert len(logged) == 4 and all(value > 0 for value in logged)
    section = load_reasoner(tmp_path / "tiny" / "rl" / "final", supervised=True).config
    assert section.supervision == "step_tokens"  # its latents can still be read


def test_labels_that_were_not_trained_are_refused(make, problems, tmp_path):
    for overrides, message in (
        ([], "keeps the labels that curriculum.supervision=step_tokens put on latents, but it is next_step"),
        (["curriculum.supervision=step_tokens", "rl.estimator=score_function"], "latents that are made again"),
    ):
        with pytest.raises(UserError, match=message):
            run(tiny(tmp_path, "tracking.wandb=false", "rl.step_tokens_weight=0.3", *overrides))
    with pytest.raises(UserError, match="the model was trained with the supervision none"):
        labels_of(make(num_latents=3), problems, 0.3)


def test_rl_measures_what_can_be_read(tmp_path):
    options = ["latent.loops=2", "curriculum.supervision=step_tokens", "rl.eval_every=2", "rl.eval_problems=12"]
    options += ["evaluate.monitor=[logprob]"]
    run(tiny(tmp_path, "tracking.wandb=false", *options))
    rows = [json.loads(line) for line in (tmp_path / "tiny" / "metrics.jsonl").read_text().splitlines()]
    found = [row for row in rows if "held_out/accuracy" in row]
    assert [row["step"] for row in found] == [0, 2, 4]
    for row in found:
        assert 0 < row["thought/legibility"] <= 1 and row["thought/gold_logprob"] < 0
        assert row["thought/text_logprob"] < 0 and 0 <= row["thought/least_read"] <= 1
        if row["held_out/accuracy"]:
            share = row["held_out/as_text"] / row["held_out/accuracy"]
            assert row["thought/readable"] == pytest.approx(share)


def test_legibility_is_that_of_naive_passes(make, problems):
    reasoner, some = (
        make(num_latents=3, loops=2, supervision="step_tokens"),
        [*problems[:20], Problem("3 + 4 =", (), "6")],
    )
    text, found = read_thoughts(reasoner, some)
    sure, gold, hits = [], [], []
    for row, problem in enumerate(some):
        ids = reasoner.prompt_ids(problem.question)
        places = [place for place, token in enumerate(ids) if token == reasoner.config.token_ids[1]]
        inputs = looped_inputs(reasoner.model, ids)[None]
        logits = reasoner.model(inputs_embeds=inputs, use_cache=False).logits[0]
        logprobs = suppress(logits, reasoner.config.token_ids).log_softmax(-1)[[place - 1 for place in places]]
        sure.append(logprobs.max(1).values.exp().mean().item())
        embeds = reasoner.model.get_input_embeddings()(logprobs.argmax(1))
        assert torch.allclose(text[row], embeds, atol=1e-6)
        tokens = reasoner.tokenizer.convert_tokens_to_ids(list(problem.steps[:3]))
        if tokens:
            gold.append(logprobs[torch.arange(len(tokens)), torch.tensor(tokens)].mean().item())
            hits.append((logprobs.argmax(1)[: len(tokens)] == torch.tensor(tokens)).float().tolist())
    assert found["legibility"] == pytest.approx(sure, rel=1e-4)
    assert found["gold_logprob"] == pytest.approx(gold, rel=1e-4) and len(gold) == 20
    reads = [found.pop(f"read_{place}") for place in (1, 2, 3)]
    assert reads == [list(place) for place in zip(*hits, strict=True)] and any(1 in place for place in reads)
    assert found.keys() == {"legibility", "gold_logprob"}
    names = ["legibility", "gold_logprob", "read_1", "read_2", "read_3"]
    assert read_thoughts(reasoner, [])[1] == {name: [] for name in names}


def test_what_is_read_is_judged_by_a_model_of_text(make, problems):
    reasoner = make(num_latents=3, loops=2, supervision="step_tokens")
    writer = make(num_latents=0)
    some = problems[:3]
    found = read_thoughts(reasoner, some, writer)[1]["text_logprob"]
    expected = []
    for problem in some:
        tokens = read_latents(reasoner, [reasoner.prompt_ids(problem.question)]).tokens[-1, 0, :, 0].tolist()
        ends = [place for place, token in enumerate(tokens) if token in reasoner.eos_token_ids]
        said = tokens[: ends[0]] if ends else tokens
        question = writer.prompt_ids(problem.question)
        logits = writer.model(input_ids=torch.tensor([question + said]), use_cache=False).logits[0]
        logprobs = suppress(logits, writer.config.token_ids).log_softmax(-1)[len(question) - 1 : -1]
        expected += [logprobs[torch.arange(len(said)), torch.tensor(said)].mean().item()] if said else []
    assert found == pytest.approx(expected, abs=1e-4) and found
    assert read_thoughts(reasoner, [], writer)[1]["text_logprob"] == []
