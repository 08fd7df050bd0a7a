"""Answers from what is read of a thought alone: they are those after the same tokens in the prompt."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from audit_models import SETTINGS, copying, word_problems
from runs import tiny
from test_cli import assert_one_paragraph, finished, neuralese

from neuralese.pipeline.evaluate.audit.interventions import AS_TEXT, answer, interventions, measure_effect
from neuralese.pipeline.evaluate.audit.readings import lens
from neuralese.pipeline.evaluate.draw_samples import draw_samples
from neuralese.pipeline.evaluate.measure import Measurement, read_results
from neuralese.pipeline.evaluate.settings import settings_of
from neuralese.pipeline.evaluate.table import setting_name
from neuralese.pipeline.latent import ModelError, parse_noise
from neuralese.pipeline.latent.batch import Draw
from neuralese.pipeline.model.from_text import answer_from_text
from neuralese.pipeline.model.reading import read_latents, text_as_latents
from neuralese.pipeline.recipe.load import RecipeError
from neuralese.pipeline.recipe.schema import EvaluateSection
from neuralese.pipeline.run.validate import check_recipe
from neuralese.pipeline.scoring.sampling_setting import Setting

__all__ = ["finished"]

QUESTIONS = ["3 + 4 =", "6 - 5 * 2 =", "1 + 1 =", "2 * 3 - 1 ="]
SEEDS = [[11, 11, 12], [21, 21, 22], [31, 31, 32], [41, 41, 42]]  # two answers a thought, and another thought


def ask(reasoner, questions=QUESTIONS, seeds=SEEDS, **options):
    found = {}
    answer_from_text(reasoner, questions, seeds, found.__setitem__, max_new_tokens=6, **options)
    return [found[place] for place in range(len(questions))]


@pytest.mark.parametrize("noise", [None, "gaussian:2"])
@pytest.mark.parametrize("options", [{}, {"loops": 2}, {"loops": 2, "injection": "replace"}, {"jacobi_sweeps": 2}])
def test_the_answer_is_that_after_the_same_tokens(make, options, noise):
    reasoner = make(num_latents=3, **options)
    plain, kind = make(num_latents=0), parse_noise(noise)
    said = []
    for question, seeds, samples in zip(QUESTIONS, SEEDS, ask(reasoner, noise=noise), strict=True):
        for place, seed in enumerate(seeds):
            draw = Draw(kind, torch.tensor([seed])) if kind is not None else None
            read = read_latents(reasoner, [reasoner.prompt_ids(question)], draw).tokens[-1, 0, :, 0].tolist()
            said.append(read)
            prompt = plain.prompt_ids(question) + read
            state = torch.tensor([prompt + samples.token_ids[place]])
            logps = plain.model(input_ids=state).logits[0].log_softmax(-1)
            logps[:, plain.config.token_ids] = -torch.inf
            written = logps[len(prompt) - 1 : -1].log_softmax(-1)
            assert written.argmax(-1).tolist() == samples.token_ids[place]
            expected = written.gather(1, torch.tensor(samples.token_ids[place])[:, None]).sum().item()
            assert samples.logprobs[place] == pytest.approx(expected, abs=1e-5)
            assert torch.equal(samples.latents[place], text_as_latents(reasoner, torch.tensor(read)))
    assert len({tuple(read) for read in said}) > 1
    if noise is not None:
        assert any(one != other for one, other in zip(said[::3], said[2::3], strict=True))  # seeds have their thoughts


def test_samples_do_not_depend_on_their_batch(reasoner):
    whole = ask(reasoner, noise="gaussian:2", temperature=1.0)
    for place, (question, seeds) in enumerate(zip(QUESTIONS, SEEDS, strict=True)):
        (alone,) = ask(reasoner, [question], [seeds], noise="gaussian:2", temperature=1.0, batch_size=2)
        assert alone.token_ids == whole[place].token_ids and alone.seeds == whole[place].seeds == seeds
    assert [one.token_ids for one in ask(reasoner, noise="gaussian:2", temperature=1.0, batch_size=6)] == [
        one.token_ids for one in whole
    ]


def test_other_loops_and_numbers_of_latents_are_those_that_are_read(make):
    reasoner = make(num_latents=4, loops=3)
    (fewer,) = ask(reasoner, QUESTIONS[:1], SEEDS[:1], loops=1, num_latents=2)
    assert reasoner.config.loops == 3 and fewer.num_latents == [2, 2, 2]
    reasoner.model.set_latent_config(loops=1, num_latents=2)
    (expected,) = ask(reasoner, QUESTIONS[:1], SEEDS[:1])
    assert torch.equal(fewer.latents, expected.latents) and fewer.texts == expected.texts


def test_accuracy_as_text_is_that_of_the_audit():
    """The copying model says nothing in its thoughts but hands the question on: from the text its answers are lost."""
    reasoner, problems = copying(), word_problems()
    options = SETTINGS.model_copy(update={"thought": "as_text", "sampling": []})
    (setting,) = settings_of(reasoner, options, problems, "latent", judged=False)
    assert setting.name == "greedy-text" and setting.is_greedy
    sampled = draw_samples(reasoner, problems, setting, options, 0)
    own = answer(reasoner, problems, SETTINGS)
    text = text_as_latents(reasoner, lens(reasoner, own)[0][..., 0])
    (audited,) = (one for one in interventions(own, 0, text) if one.name == AS_TEXT)
    effect = measure_effect(reasoner, own, audited, SETTINGS, 0)
    share = sum(row.right[0] for row in sampled) / len(problems)
    assert share == effect.accuracy.value and share < own.right.mean() == 1.0


def test_settings_of_vectors_are_written_as_before():
    assert "thought" not in Setting().to_dict() and Setting(thought="as_text").to_dict()["thought"] == "as_text"
    assert Setting.from_dict(Setting(4, None, 1.0).to_dict()).thought is None
    assert Setting(16, "gaussian:0.3", 1.0, thought="as_text").name == "n16-text-gaussian-0.3-T1"
    row = Measurement("rl", "latent", "accuracy", 1, None, 0.0, 0.5, (0.4, 0.6), 9, 0)
    assert row.thought is None and setting_name(replace(row, thought="as_text")) == "greedy, thought as text"


def test_eval_of_thoughts_as_text(capsys, finished, tmp_path):
    output, key = tmp_path / "e.json", "evaluate.thought=as_text"
    code, out, error = neuralese(capsys, "eval", finished, key, "evaluate.problems=10", "--output", output)
    rows = read_results(output)
    assert code == 0 and "thought as text" in out, error
    assert {(row.stage, row.thought) for row in rows} == {("sft", None), ("curriculum", "as_text"), ("rl", "as_text")}
    assert {row.mode for row in rows if row.thought} == {"latent"} and any(row.noise and row.thought for row in rows)
    assert (tmp_path / "e-samples" / "rl" / "greedy-text.jsonl").is_file()
    neuralese(capsys, "eval", finished, key, "evaluate.problems=10", "--output", output)
    assert read_results(output) == rows  # from the kept samples


def test_models_without_anything_to_read_are_refused(capsys, finished, tmp_path, reasoner):
    key, pause = "evaluate.thought=as_text", shutil.copytree(finished, tmp_path / "pause") / "rl" / "final"
    config = json.loads((pause / "config.json").read_text())
    config["latent"]["thought_source"] = "pause"
    (pause / "config.json").write_text(json.dumps(config))
    assert_one_paragraph(neuralese(capsys, "eval", pause, key), "rl has placeholders that hand nothing on. Remove it")
    assert_one_paragraph(neuralese(capsys, "eval", finished / "sft" / "final", key), "sft thinks in text")
    assert_one_paragraph(
        neuralese(capsys, "eval", finished, key, "evaluate.num_latents=0"), "no latent to read with num_latents=0"
    )
    assert_one_paragraph(neuralese(capsys, "eval", finished, "evaluate.thought=text"), "'vectors' or 'as_text'")
    with pytest.raises(ModelError, match="thinks in text"):
        ask(reasoner, num_latents=0)
    with pytest.raises(RecipeError, match="with latent.thought_source=pause_multi there is nothing in"):
        check_recipe(tiny(tmp_path, key, "latent.thought_source=pause_multi"))
    with pytest.raises(ValueError, match="remove thought=as_text"):
        EvaluateSection(thought="as_text", search=[{"kind": "tree", "noise": "gaussian:0.5", "at": 1, "children": 2}])
