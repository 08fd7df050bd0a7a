"""`neuralese eval` and `neuralese calibrate` on a run and on a checkpoint."""

import json

from test_cli import assert_one_paragraph, finished, neuralese

from neuralese.pipeline.evaluate.evaluate import read_results
from neuralese.pipeline.measure import Point, propose

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
    assert_one_paragraph(neuralese(capsys, "calibrate", finished / "sft" / "final"), "has no latents for noise to fall")
    assert_one_paragraph(neuralese(capsys, "calibrate", finished, "--noise", "gauss"), "Unknown noise 'gauss:0.03'")


def test_the_proposed_scale_keeps_most_of_pass_at_one():
    points = [Point(0.3, 0.45, 0.8), Point(0.1, 0.5, 0.7), Point(0.2, 0.46, 0.8), Point(0.5, 0.3, 0.9)]
    assert propose(0.5, points) == points[2]  # of two equal ones the smaller; 0.5 costs too much
    assert propose(0.6, points) is None
