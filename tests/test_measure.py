"""`neuralese eval` and `neuralese calibrate` on a run and on a checkpoint."""

import json
import shutil
from dataclasses import replace

import torch
from test_cli import assert_one_paragraph, finished, neuralese

from neuralese.pipeline.evaluate.measure import Measurement, read_results
from neuralese.pipeline.evaluate.table import setting_name, stage_name
from neuralese.pipeline.problems.load import load_all
from neuralese.pipeline.recipe.load import load_recipe
from neuralese.pipeline.run import calibrate as calibrate_module
from neuralese.pipeline.run.calibrate import Point, propose
from neuralese.pipeline.run.results import _track_results

__all__ = ["finished"]


def test_eval_of_a_run_and_of_one_checkpoint(capsys, finished, tmp_path):
    output = tmp_path / "again.json"
    code, out, _ = neuralese(capsys, "eval", finished, "evaluate.problems=10", "--output", output)
    rows = json.loads(output.read_text())
    assert code == 0 and {row["stage"] for row in rows} == {"sft", "curriculum", "rl"} and rows[0]["n"] == 10
    code, out, _ = neuralese(capsys, "eval", finished / "rl" / "final", "--output", output)
    assert code == 0 and str(output) in out
    whole = [row for row in read_results(finished / "results.json") if row.stage == "rl"]
    assert read_results(output) == whole  # but for the seconds it took


def test_calibrate_proposes_a_scale(capsys, finished, tmp_path):
    output = tmp_path / "calibration.json"
    options = ["--scale", "0.3", "--scale", "0.1", "--output", output, "evaluate.problems=10"]
    code, out, _ = neuralese(capsys, "calibrate", finished, *options)
    assert code == 0 and "Greedy " in out and "gaussian" in out and "pass@4" in out
    found = json.loads(output.read_text())
    assert {row["noise"] for row in found["rows"]} == {None, "gaussian:0.1", "gaussian:0.3"}
    assert {row["stage"] for row in found["rows"]} == {"curriculum"} and found["rows"][0]["n"] == 10
    assert "Problems     10 training problems that were held out" in out
    assert_one_paragraph(neuralese(capsys, "calibrate", finished / "sft" / "final"), "has no latents for noise to fall")
    assert_one_paragraph(neuralese(capsys, "calibrate", finished, "--noise", "gauss"), "Unknown noise 'gauss:0.03'")


def test_calibrate_does_not_look_at_the_evaluation_problems(capsys, finished, tmp_path, monkeypatch):
    asked = []
    original = calibrate_module.evaluate_checkpoint

    def spy(recipe, checkpoint, stage, problems):
        asked.extend(problems)
        return original(recipe, checkpoint, stage, problems)

    monkeypatch.setattr(calibrate_module, "evaluate_checkpoint", spy)
    options = ["--scale", "0.3", "--output", tmp_path / "calibration.json"]
    code, _, error = neuralese(capsys, "calibrate", finished, *options)
    problems = load_all(load_recipe(finished / "recipe.yaml"))
    assert code == 0 and asked == problems.held_out and len(asked) == 16, error
    assert not {one.question for one in asked} & {one.question for one in [*problems.evaluation, *problems.train]}
    asked.clear()  # what the run trained on does not become held out by asking for more
    code, _, error = neuralese(capsys, "calibrate", finished, "curriculum.eval_problems=100", "seed=1", *options)
    assert code == 0 and asked == problems.held_out, error


def test_calibrate_measures_noise_and_nothing_else_of_a_recipe(capsys, finished, tmp_path):
    options = ["--scale", "0.3", "evaluate.problems=10"]
    plain, other = tmp_path / "plain.json", tmp_path / "other.json"
    assert neuralese(capsys, "calibrate", finished, *options, "--output", plain)[0] == 0
    searched = ["evaluate.search=[{kind: tree, noise: gaussian:0.3, at: 1, children: 4}]"]
    assert neuralese(capsys, "calibrate", finished, *options, *searched, "--output", other)[0] == 0
    rows = [json.loads(file.read_text())["rows"] for file in (plain, other)]
    assert [row["value"] for row in rows[0]] == [row["value"] for row in rows[1]]
    assert neuralese(capsys, "calibrate", finished, *options, "evaluate.num_latents=0", "--output", other)[0] == 0


def test_eval_with_other_numbers_of_latents(capsys, finished, tmp_path):
    output, checkpoint = tmp_path / "e.json", finished / "rl" / "final"
    found = {}
    for count in (0, 1, 2, 3):
        key = [f"evaluate.num_latents={count}"] if count != 2 else []
        code, _, error = neuralese(capsys, "eval", checkpoint, *key, "--output", output)
        rows = read_results(output)
        found[count] = {row.mode for row in rows}, {setting_name(row) for row in rows if row.metric == "accuracy"}
        assert code == 0 and {stage_name(row) for row in rows} == {"latent after RL"}, error
        noisy = [row for row in rows if row.noise]
        assert bool(noisy) == (count > 0)  # text has no latents for it to fall on
        assert all(row.latents == count * row.k for row in noisy)
    assert found == {
        0: ({"text"}, {"greedy, in text"}), 1: ({"hybrid"}, {"greedy, 1 latent"}),
        2: ({"latent"}, {"greedy"}), 3: ({"latent"}, {"greedy, 3 latents"}),
    }  # fmt: skip
    assert_one_paragraph(neuralese(capsys, "eval", checkpoint, "evaluate.num_latents=-1"), "num_latents")


def test_eval_with_other_loops_and_narrower_blocks(capsys, finished, tmp_path):
    copied = shutil.copytree(finished, tmp_path / "looped")
    config = json.loads((copied / "rl" / "final" / "config.json").read_text())
    config["latent"] |= {"loops": 3, "num_latents": 4, "latents_per_step": 2}
    (copied / "rl" / "final" / "config.json").write_text(json.dumps(config))
    output, checkpoint = tmp_path / "e.json", copied / "rl" / "final"
    for keys, name, latents in (
        ([], "greedy", 4),
        (["evaluate.loops=1"], "greedy, 1 loop", 4),
        (["evaluate.latents_per_step=1"], "greedy, 2 latents", 2),
        (["evaluate.loops=2", "evaluate.latents_per_step=1"], "greedy, 2 latents, 2 loops", 2),
    ):
        code, _, error = neuralese(capsys, "eval", checkpoint, *keys, "--output", output)
        rows = [row for row in read_results(output) if row.metric == "accuracy"]
        assert code == 0 and [(setting_name(row), row.mode, row.latents) for row in rows] == [
            (name, "latent", latents)
        ], error
        assert rows[0].seconds > 0
    for keys, message in (
        (["evaluate.loops=0"], "evaluate.loops"),
        (["evaluate.latents_per_step=3"], "more than the 2 latents that a step had"),
        (["evaluate.latents_per_step=1", "evaluate.num_latents=2"], "both say how many"),
    ):
        assert_one_paragraph(neuralese(capsys, "eval", checkpoint, *keys, "--output", output), message)
    sequential = neuralese(capsys, "eval", finished / "rl" / "final", "evaluate.loops=2", "--output", output)
    assert_one_paragraph(sequential, "needs looped latents, but the checkpoint makes its latents in mode sequential")


def test_other_loops_are_those_of_a_checkpoint_with_so_many(make):
    reasoner = make(num_latents=3, loops=3)
    (fewer,) = reasoner.generate(["3 + 4 ="], loops=1)
    assert reasoner.config.loops == 3
    reasoner.model.set_latent_config(loops=1)
    (expected,) = reasoner.generate(["3 + 4 ="])
    assert torch.equal(fewer.latents, expected.latents) and fewer.texts == expected.texts


def test_results_have_keys_of_their_own_in_wandb():
    drawn = Measurement("rl", "latent", "pass@k", 16, "gaussian:0.3", 0.0, 0.5, (0.4, 0.6), 9, 0, setting="n16-g")
    found = replace(drawn, search="tree-16at1", setting="n16-tree-16at1-g", value=0.9)
    chosen = replace(drawn, metric="likelihood@k", value=0.7)
    logged = {}

    class Recorder:
        def log(self, metrics, step):
            logged.update(metrics)

        def log_table(self, name, columns, rows, step):
            logged[name] = columns, rows

    _track_results(Recorder(), [drawn, found, chosen])
    assert logged["rl/pass@16/n16-g"] == 0.5 and logged["rl/pass@16/n16-tree-16at1-g"] == 0.9
    assert logged["rl/likelihood@16/n16-g"] == 0.7
    columns, rows = logged["results"]
    assert dict(zip(columns, rows[1], strict=True)) | {"search": "tree-16at1", "low": 0.4, "value": 0.9} == dict(
        zip(columns, rows[1], strict=True)
    )


def test_the_proposed_scale_keeps_most_of_pass_at_one():
    points = [Point(0.3, 0.45, 0.8), Point(0.1, 0.5, 0.7), Point(0.2, 0.46, 0.8), Point(0.5, 0.3, 0.9)]
    assert propose(0.5, points) == points[2]  # of two equal ones the smaller; 0.5 costs too much
    assert propose(0.6, points) is None
