"""Measurements on held-out problems during RL, and latents that are put in place of the model's own."""

import json

import pytest
import torch
from audit_models import SETTINGS, copying, word_problem
from conftest import ROOT
from test_grpo import make_trainer, rollouts

from neuralese.data.errors import UserError
from neuralese.pipeline.latent.noise import Replacement
from neuralese.pipeline.latent.noise.values import value_bases
from neuralese.pipeline.recipe.load import load_recipe
from neuralese.pipeline.recipe.schema import EvaluateSection
from neuralese.pipeline.run.train import run
from neuralese.pipeline.train.rl import held_out

QUESTIONS = ["3 + 4 =", "6 - 5 =", "2 * 2 ="]


def greedy(reasoner, latents=None):
    noise = Replacement(latents=latents) if latents is not None else None
    seeds = [[i] for i in range(len(QUESTIONS))]
    return reasoner.generate(QUESTIONS, noise=noise, seeds=seeds, max_new_tokens=4, batch_size=2)


def test_a_models_own_latents_in_their_place_change_nothing(reasoner):
    own = greedy(reasoner)
    latents = torch.cat([sample.latents for sample in own])
    again = greedy(reasoner, latents)
    assert [sample.token_ids for sample in again] == [sample.token_ids for sample in own]
    assert [s.logprobs[0] for s in again] == pytest.approx([s.logprobs[0] for s in own], abs=1e-4)


def test_other_latents_are_what_the_answer_is_made_from(reasoner):
    latents = torch.randn(3, 3, 32)
    for question, given, sample in zip(QUESTIONS, latents, greedy(reasoner, latents), strict=True):
        assert torch.equal(sample.latents[0], given)
        ids = reasoner.prompt_ids(question)
        embeds = reasoner.model.get_input_embeddings()(torch.tensor(ids))
        embeds = torch.cat([embeds[: len(ids) - 3], given])  # the latents end the prompt
        logits = reasoner.model(inputs_embeds=embeds[None], use_cache=False).logits[0, -1]
        logits[list(reasoner.config.token_ids)] = -1e30
        assert sample.token_ids[0][0] == logits.argmax()


@pytest.mark.parametrize("options", [[], ["rl.algorithm=ppo"]], ids=["grpo", "ppo"])
def test_rl_measures_held_out_problems(tmp_path, monkeypatch, options):
    measured = []
    original = held_out.HeldOutCallback._right

    def spy(self, reasoner, problems):
        measured.append(problems)
        return original(self, reasoner, problems)

    monkeypatch.setattr(held_out.HeldOutCallback, "_right", spy)
    common = [f"output_dir={tmp_path}", "tracking.wandb=false", "rl.eval_every=3", "rl.eval_problems=20"]
    run(load_recipe(ROOT / "tests" / "tiny.yaml", [*common, *options]))
    rows = [json.loads(line) for line in (tmp_path / "tiny" / "metrics.jsonl").read_text().splitlines()]
    found = [row for row in rows if "held_out/accuracy" in row]
    assert [row["step"] for row in found] == [0, 3, 4]
    names = {"held_out/accuracy", "held_out/pass@1", "held_out/pass@4", "held_out/swap", "held_out/zero"}
    assert all(names <= row.keys() and 0 <= row["held_out/pass@1"] <= row["held_out/pass@4"] for row in found)
    # Held out of RL, and more than the curriculum keeps (16).
    assert len(measured) == 3 and len(measured[0]) == 20


def test_a_measurement_leaves_the_directions_of_waiting_rollouts(reasoner, problems, tmp_path):
    trainer = make_trainer(reasoner, problems, tmp_path, noise="svp:0.3")
    rollouts(trainer)
    before = value_bases(reasoner.model)
    with torch.no_grad():
        reasoner.model.transformer.h[0].attn.c_attn.weight.add_(0.1)
    callback = held_out.HeldOutCallback(
        reasoner, problems[:4], EvaluateSection(max_new_tokens=4), 1, trainer.noise, 4, temperature=1.0
    )
    callback.trainer = trainer
    callback.measure()
    assert value_bases(reasoner.model) is before


def test_the_latent_that_is_read_least_stands_for_a_token_in_half_of_the_problems(
    reasoner, problems, tmp_path, monkeypatch
):
    callback = held_out.HeldOutCallback(reasoner, problems[:4], SETTINGS, 1, None, 2, temperature=1.0)
    callback.trainer = make_trainer(reasoner, problems, tmp_path)
    reads = {"read_1": [1.0, 1.0, 1.0, 0.0], "read_2": [1.0, 0.0], "read_3": [0.0], "read_4": []}
    monkeypatch.setattr(callback, "_right", lambda *_: {"accuracy": [1.0] * 4, **reads})
    assert callback.measure() == {"held_out/accuracy": 1.0, "thought/least_read": 0.5}


@pytest.mark.parametrize(
    ("numbers", "swapped"),
    [([0, 0, 1, 1, 2, 2], 6), ([0] * 8 + [1] * 2, 4), ([3] * 4, 0), ([], 0)],
    ids=["neighbours alike", "one answer too common", "one answer", "no problem"],
)
def test_latents_are_swapped_with_problems_of_another_answer(numbers, swapped):
    """The answers of this model are its latents: none stays right with those of another answer."""
    reasoner = copying()
    problems = [word_problem(number) for number in numbers]
    callback = held_out.HeldOutCallback(reasoner, problems, SETTINGS, 1, None, 2, temperature=1.0)
    right = callback._right(reasoner, problems)
    assert right["swap"] == [0.0] * swapped and right["accuracy"] == [1.0] * len(numbers) == right["pass@2"]
    assert len(right["zero"]) == len(numbers)


def test_a_measure_is_over_the_problems_that_have_it(reasoner, problems, tmp_path, monkeypatch):
    trainer = make_trainer(reasoner, problems, tmp_path)
    callback = held_out.HeldOutCallback(reasoner, problems[:4], SETTINGS, 1, None, 4, temperature=1.0)
    callback.trainer = trainer
    for swap, there in (([1.0, 0.0], {"held_out/swap": 0.5}), ([], {})):
        monkeypatch.setattr(callback, "_right", lambda *_, swap=swap: {"accuracy": [1.0, 0.0, 0.0, 0.0], "swap": swap})
        assert callback.measure() == {"held_out/accuracy": 0.25, **there}


def test_too_few_problems_to_hold_out_are_named(tmp_path):
    options = [f"output_dir={tmp_path}", "rl.eval_every=3", "rl.eval_problems=300", "tracking.wandb=false"]
    with pytest.raises(UserError, match="eval_problems=300 of the curriculum or of rl would hold out all 200"):
        run(load_recipe(ROOT / "tests" / "tiny.yaml", options))
