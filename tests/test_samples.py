"""Samples on disk: what they are, resuming after a kill, and samples of another model."""

import json
from dataclasses import asdict

import pytest

from neuralese.pipeline.evaluate.draw_samples import draw_samples
from neuralese.pipeline.latent.sampling import generate
from neuralese.pipeline.recipe.schema import EvaluateSection
from neuralese.pipeline.scoring.sample_files import SampleFile, digest, read_samples
from neuralese.pipeline.scoring.sampling_setting import Setting, seeds_of

OPTIONS = EvaluateSection(max_new_tokens=4, batch_size=6)
NOISY = Setting(3, "gaussian:0.5", 1.0)
WHAT = {"checkpoint": "one", "setting": asdict(NOISY)}


class KilledError(Exception):
    pass


@pytest.fixture
def few(problems):
    return problems[:8]


def test_samples_are_those_of_generate_and_are_judged(reasoner, few):
    rows = draw_samples(reasoner, few, NOISY, OPTIONS, 0)
    seeds = seeds_of(8, NOISY, 0)
    drawn = reasoner.generate(
        [problem.question for problem in few], noise="gaussian:0.5", temperature=1.0, max_new_tokens=4, seeds=seeds
    )
    for row, problem, samples, seed in zip(rows, few, drawn, seeds, strict=True):
        assert (row.question, row.texts, row.seeds) == (problem.question, samples.texts, seed)
        assert row.tokens == [len(ids) for ids in samples.token_ids] and row.latents == [3, 3, 3]
        assert row.logprobs == pytest.approx(samples.logprobs, abs=1e-4)
        assert row.right.tolist() == [answer == problem.answer for answer in row.answers]


def test_answers_that_share_a_thought_have_its_seed():
    setting = Setting(6, "gaussian:0.5", 1.0, answers_per_thought=3)
    for row in seeds_of(5, setting, 0):
        assert row[:3] == [row[0]] * 3 and row[3:] == [row[3]] * 3 and row[0] != row[3]
    assert (Setting().name, setting.name) == ("greedy", "n6-m3-gaussian-0.5-T1")


@pytest.mark.parametrize("seeds", [[5, 5, 9, 9, 9, 4], [5, 9, 5, 9, 5, 9], [1, 2, 3, 4, 5, 6]])
def test_more_samples_than_a_batch_holds_are_the_same_ones(reasoner, few, seeds, monkeypatch):
    original, sizes = generate._generate, []

    def measured(model, prompts, rows, *others):
        sizes.append(len(rows))
        return original(model, prompts, rows, *others)

    monkeypatch.setattr(generate, "_generate", measured)
    options = {"noise": "gaussian:0.5", "temperature": 1.0, "max_new_tokens": 4, "seeds": [seeds]}
    (whole,) = reasoner.generate([few[0].question], batch_size=6, **options)
    (parts,) = reasoner.generate([few[0].question], batch_size=3, **options)
    assert sizes == [6, 3, 3]
    assert (parts.texts, parts.token_ids, parts.seeds) == (whole.texts, whole.token_ids, seeds)
    assert parts.logprobs == pytest.approx(whole.logprobs, abs=1e-4)
    assert parts.latents.allclose(whole.latents, atol=1e-5) and len(set(whole.texts)) > 1


def test_a_killed_evaluation_goes_on_where_it_was(reasoner, few, tmp_path, monkeypatch):
    whole = draw_samples(reasoner, few, NOISY, OPTIONS, 0, SampleFile(tmp_path / "whole.jsonl", WHAT))
    original, asked = type(reasoner).generate, []

    def counting(self, prompts, **options):
        asked.append(len(prompts))
        return original(self, prompts, **options)

    def killed(self, prompts, on_samples, **options):
        def dies(at, samples):
            if at == 5:
                raise KilledError
            on_samples(at, samples)

        return original(self, prompts, on_samples=dies, **options)

    monkeypatch.setattr(type(reasoner), "generate", killed)
    path = tmp_path / "killed.jsonl"
    with pytest.raises(KilledError):
        draw_samples(reasoner, few, NOISY, OPTIONS, 0, SampleFile(path, WHAT))
    (part,) = tmp_path.glob("killed.part*")
    assert sorted(read_samples(part)[1]) == [0, 1, 2, 3]  # two batches of two problems
    part.write_text(part.read_text() + '{"problem": 4, "ques')  # and a torn line
    monkeypatch.setattr(type(reasoner), "generate", counting)
    again = draw_samples(reasoner, few, NOISY, OPTIONS, 0, SampleFile(path, WHAT))
    assert asked == [4] and again == whole
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["killed.jsonl", "whole.jsonl"]
    assert draw_samples(reasoner, few, NOISY, OPTIONS, 0, SampleFile(path, WHAT)) == whole and asked == [4, 0]


def test_a_second_kill_loses_nothing_of_the_first(reasoner, few, tmp_path):
    """A part is gone on with after its torn line is gone."""
    path = tmp_path / "s.jsonl"
    rows = [asdict(row) for row in draw_samples(reasoner, few, NOISY, OPTIONS, 0)]
    SampleFile(path, WHAT).add({0: rows[0], 1: rows[1]})
    part = tmp_path / "s.part0.jsonl"
    part.write_text(part.read_text()[:-9])
    second = SampleFile(path, WHAT)
    assert sorted(second.read()) == [0]
    second.add({1: rows[1]})
    second.add({2: rows[2]})
    assert SampleFile(path, WHAT).read() == {0: rows[0], 1: rows[1], 2: rows[2]}


def test_samples_of_another_model_or_problem_are_not_used(reasoner, few, tmp_path, caplog):
    path = tmp_path / "s.jsonl"
    first = draw_samples(reasoner, few, NOISY, OPTIONS, 0, SampleFile(path, WHAT))
    more = draw_samples(reasoner, few[::-1], NOISY, OPTIONS, 0, SampleFile(path, WHAT))
    assert [row.question for row in more] == [problem.question for problem in few[::-1]] and not caplog.messages
    assert draw_samples(reasoner, few, NOISY, OPTIONS, 0, SampleFile(path, {**WHAT, "checkpoint": "two"})) == first
    assert "s.jsonl was sampled from another model or in another way" in caplog.text
    assert json.loads(path.read_text().splitlines()[0])["checkpoint"] == "two"


def test_the_digest_tells_weights_apart(reasoner, tmp_path):
    reasoner.save_pretrained(tmp_path / "a")
    reasoner.save_pretrained(tmp_path / "b")
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    next(reasoner.model.parameters()).data[0, 0] += 1e-3
    reasoner.save_pretrained(tmp_path / "b")
    assert digest(tmp_path / "a") != digest(tmp_path / "b")
