"""Tables and histograms in W&B: rollouts in words, held-out problems that are followed, how numbers are distributed."""

import json
from types import SimpleNamespace

import pytest
import torch
from runs import tiny
from test_grpo import make_trainer, rollouts
from wandb_reader import artifacts, read_run

from neuralese.pipeline.latent.batch import Draw
from neuralese.pipeline.latent.noise import parse_noise
from neuralese.pipeline.model.reading import block_texts, read_latents, thought_texts
from neuralese.pipeline.run.train import run
from neuralese.pipeline.tracking.tracker import Tracker
from neuralese.pipeline.train.rl.rollouts_table import RolloutsTable, rollout_columns


def runs_of(folder):
    """The W&B runs of a pipeline by stage, and the rows of their tables, merged, by name."""
    found = {}
    for path in folder.glob("wandb/offline-run-*/*.wandb"):
        stage = read_run(path)
        tables = {}
        for file in sorted(
            path.parent.glob("files/media/table/**/*.table.json"), key=lambda file: file.stat().st_mtime
        ):
            name = str(file.relative_to(path.parent / "files/media/table")).rpartition("_")[0].rpartition("_")[0]
            tables.setdefault(name, []).append(json.loads(file.read_text()))
        found[stage["job_type"]] = stage, tables
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run folder."""
    place = tmp_path_factory.mktemp("tables")
    few = ("evaluate.num_samples=1", "evaluate.k=[1]", "evaluate.sampling=[]")
    inner = ("rl.trainer.num_iterations=2", "rl.eval_every=2", "rl.eval_problems=8")
    run(tiny(place, "tracking.tables_every=2", "tracking.log_model=true", *few, *inner))
    return place / "tiny"


@pytest.fixture(scope="module")
def recorded(folder):
    return runs_of(folder)


def test_weights_and_report_are_artifacts_that_name_what_they_were_made_of(folder):
    found = {}
    for path in folder.glob("wandb/offline-run-*/*.wandb"):
        found |= artifacts(path)
    made_of = {name: metadata["made_of"] for name, (kind, metadata, _) in found.items() if kind == "model"}
    assert made_of == {"tiny-seed0-sft": None, "tiny-seed0-curriculum": "sft", "tiny-seed0-rl": "curriculum"}
    _, _, files = found["tiny-seed0-rl"]
    assert files == {path.name for path in (folder / "rl" / "final").iterdir()}
    kind, _, files = found["tiny-seed0-report"]
    assert kind == "report" and files == {"report.html", "results.json"}


def test_tables_of_rollouts_come_at_the_first_draw_and_every_few_steps(recorded):
    stage, tables = recorded["rl"]
    sent = [row["global_step"] for row in stage["rows"] if row.get("completions._type") == "table-file"]
    assert sent == [0, 2]
    first, _ = tables["completions"]
    assert first["columns"] == ["prompt", "thought", "completion", "exact_match", "advantage", "noise_seed"]
    assert len(first["data"]) == 8
    for _, thought, *_, seed in first["data"]:
        assert thought.count(" | ") == 1  # two latents, a block each
        assert int(seed) >= 1


def test_histograms_are_of_rewards_advantages_latents_and_ratios(recorded):
    stage, _ = recorded["rl"]
    shown = {}
    for row in stage["rows"]:
        for key in row:
            name, _, part = key.partition(".")
            if part == "_type" and row[key] == "histogram":
                shown.setdefault(name, []).append(row["global_step"])
    assert shown == {
        "histogram/exact_match": [0, 2],
        "histogram/advantage": [0, 2],
        "histogram/latent_norm": [0, 2],
        "histogram/ratio": [1, 3],  # after the first update on the rollouts
    }


@pytest.mark.parametrize("stage", ["curriculum", "rl"])
def test_the_same_problems_are_followed_at_every_measurement(recorded, stage):
    _, tables = recorded[stage]
    rows = [row for part in tables["held_out/followed"] for row in part["data"]]
    by_step = {}
    for step, *row in rows:
        by_step.setdefault(step, []).append(row)
    assert list(by_step) == {"curriculum": [4, 8], "rl": [0, 2, 4]}[stage]
    first, *others = ([question for question, *_ in found] for found in by_step.values())
    assert len(set(first)) == {"curriculum": 16, "rl": 8}[stage]
    assert all(questions == first for questions in others)
    assert all(isinstance(right, bool) for found in by_step.values() for *_, right in found)


def test_no_tables_are_made_where_they_are_not_wanted(tmp_path):
    few = ("evaluate.num_samples=1", "evaluate.k=[1]", "evaluate.sampling=[]", "rl.eval_every=2", "rl.eval_problems=8")
    run(tiny(tmp_path, "tracking.tables_every=null", *few))
    for stage, tables in runs_of(tmp_path / "tiny").values():
        assert not set(tables) & {"completions", "held_out/followed"}
        assert not any("histogram" in key for row in stage["rows"] for key in row)


def test_thoughts_are_read_as_they_were_drawn(make):
    """With their noise, whatever else is in the batch; a text model has no thought to read."""
    reasoner = make(num_latents=2)
    noise = parse_noise("gaussian:3.0")
    prompts = [reasoner.prompt_ids("1 + 2 ="), reasoner.prompt_ids("3 * 4 - 1 =")]
    seeds = torch.tensor([5, 6])
    texts = thought_texts(reasoner, prompts, Draw(noise, seeds))
    for prompt, seed, text in zip(prompts, seeds, texts, strict=True):
        alone = read_latents(reasoner, [prompt], Draw(noise, seed[None])).tokens[-1, 0, :, 0].tolist()
        assert text == " | ".join(block_texts(reasoner, alone))
    assert texts != thought_texts(reasoner, prompts)
    assert thought_texts(reasoner, [reasoner.prompt_ids("1 + 2 =", 0)]) == [""]


def test_a_table_holds_the_thoughts_that_were_drawn_and_the_advantages_of_the_loss(make, problems, tmp_path):
    reasoner, noise, sent = make(num_latents=2), parse_noise("gaussian:3.0"), {}
    trainer = make_trainer(reasoner, problems, tmp_path, noise="gaussian:3.0")

    def log_table(name, columns, rows, step):
        sent.update(zip(columns, zip(*rows, strict=True), strict=True))

    tracker = SimpleNamespace(sends_media=True, log_table=log_table, log_histograms=lambda *_: None)
    trainer.table = RolloutsTable(tracker, every=5)
    inputs = rollouts(trainer)  # in another order than they were drawn in
    place = {seed: row for row, seed in enumerate(inputs["noise_seeds"].tolist())}
    seeds = [int(seed) for seed in sent["noise_seed"]]
    assert sent["advantage"] == pytest.approx([float(inputs["advantages"][place[seed]]) for seed in seeds])
    assert any(sent["advantage"])
    prompts = [reasoner.prompt_ids(question) for question in sent["prompt"]]
    assert list(sent["thought"]) == thought_texts(reasoner, prompts, Draw(noise, torch.tensor(seeds)))


def test_a_table_shows_the_first_rollouts_with_what_each_earned():
    logs = {
        "prompt": ["a", "b", "c"],
        "completion": ["x", "y", "z"],
        "rewards": {"right": [1.0, 0.0, 1.0]},
        "extra": {"whole": ["p", "q", "r"], "short": ["p", "r"]},  # nobody knows whose
    }
    columns = rollout_columns(logs, ["1 | 2", ""], [0.5, -0.5], [7, -(2**62)])
    assert columns == {
        "prompt": ["a", "b"], "thought": ["1 | 2", ""], "completion": ["x", "y"], "right": [1.0, 0.0],
        "whole": ["p", "q"], "advantage": [0.5, -0.5], "noise_seed": ["7", str(-(2**62))],
    }  # fmt: skip
    assert "thought" not in rollout_columns(logs, ["", ""], [0.5, -0.5], [1, 2])


def test_histograms_leave_out_what_is_no_number(tmp_path):
    (tmp_path / "tiny").mkdir()
    tracker = Tracker(tiny(tmp_path), tmp_path / "tiny", is_main=True)
    tracker.start("rl")
    tracker.log_histograms({"all": torch.tensor([1.0, float("nan"), 3.0]), "none": torch.tensor([float("inf")])}, 1)
    tracker.finish()
    (path,) = (tmp_path / "tiny").glob("wandb/offline-run-*/*.wandb")
    (row,) = read_run(path)["rows"]
    assert sum(row["all.values"]) == 2
    assert not any(key.startswith("none") for key in row)


def test_tables_are_due_after_as_many_steps():
    tracker = SimpleNamespace(sends_media=True)
    table = RolloutsTable(tracker, every=3)
    found = []
    for step in range(0, 10, 2):  # a draw serves two steps
        if table.begin_draw(step):
            found.append(step)
            table.sent = step
    assert found == [0, 4, 8]
    tracker.sends_media = False
    assert not table.begin_draw(20)


def test_ratios_are_those_of_the_rollouts_in_the_table():
    """Not of rollouts that were drawn after them."""
    tracker = SimpleNamespace(sends_media=True, log_table=lambda *_: None, log_histograms=lambda *_: None)
    table, inputs = RolloutsTable(tracker, every=3), {"old_per_token_logps": None}
    assert table.begin_draw(0)
    table.send({"a": []}, {}, 0)
    assert not table.takes_ratios(inputs, 0) and table.takes_ratios(inputs, 1)
    assert not table.begin_draw(1)  # another draw
    assert not table.takes_ratios(inputs, 2)


def test_reading_thoughts_takes_no_dropout_and_no_random_numbers(make):
    reasoner = make(num_latents=2)
    expected = thought_texts(reasoner, [reasoner.prompt_ids("1 + 2 =")])
    for module in reasoner.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.9
    reasoner.model.train()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert thought_texts(reasoner, [reasoner.prompt_ids("1 + 2 =")]) == expected
    assert reasoner.model.training and torch.equal(torch.get_rng_state(), before)
