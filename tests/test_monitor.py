"""The monitor: scores of what is read in thoughts, and how well they tell wrong answers."""

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from audit_models import copying, word_problems
from sklearn.metrics import roc_auc_score
from test_cli import finished, neuralese

from neuralese.data.chain import ChainTask, generate
from neuralese.data.equations import equation_holds
from neuralese.data.problem import Problem
from neuralese.data.tasks import valid_steps
from neuralese.pipeline.evaluate.draw_samples import Effort, draw_samples
from neuralese.pipeline.evaluate.measure import Measurement, read_results
from neuralese.pipeline.evaluate.monitored import judge_monitor
from neuralese.pipeline.evaluate.report.page import write_report
from neuralese.pipeline.evaluate.table import monitor_rows, print_results
from neuralese.pipeline.model.reading import block_texts, read_latents
from neuralese.pipeline.recipe.schema import EvaluateSection
from neuralese.pipeline.scoring.monitor import Monitor
from neuralese.pipeline.scoring.problem_samples import Sampled
from neuralese.pipeline.scoring.sample_files import SampleFile
from neuralese.pipeline.scoring.sampling_setting import Setting
from neuralese.pipeline.statistics.edit_distance import edit_distance

__all__ = ["finished"]


@pytest.mark.parametrize(
    "text",
    ["17 + 5 = 22", "<<48/2=24>>", "<< 3 * (2 + 1) = 9 >>", "10/3=3.33", "10/3=3.3", "2/3=0.67", "2/3=.66", "-2*3=-6",
     "$1,200*.5=600", "50%*20=10", "5-8=-3"],
)  # fmt: skip
def test_equations_that_hold(text):
    assert equation_holds(text)


@pytest.mark.parametrize(
    "text",
    ["17 + 5 = 23", "<<48/2=25>>", "10/3=3", "10/3=3.4", "1/0=1", "22", "", "=", "5 =", "= 5", "1+1=1+1", "1+1=2=2",
     "9**9=1", "a + 1 = 2", "1 + = 2", "<<1+1=2", "f(1)=1", "1 +" * 99 + "1 = 100", "((((=1", "True+1=2", "1/3=-.33"],
)  # fmt: skip
def test_equations_that_do_not_hold(text):
    assert not equation_holds(text)


def test_equations_modulo_a_number():
    assert equation_holds("22 * 3 = 4", 31) and equation_holds("4 - 8 = 27", 31)
    assert not equation_holds("22 * 3 = 66", 31) and not equation_holds("4 - 8 = -4", 31)


@pytest.mark.parametrize("equations", [False, True])
def test_every_step_of_the_chain_task_is_valid_and_another_is_not(equations):
    options = {"modulus": 31, "num_operations": 4, "equations": equations}
    for problem in generate(ChainTask(**options), 50, "train", 0):
        assert valid_steps("chain", options, problem, problem.steps) == [True] * 4
        for place in range(4):
            steps = list(problem.steps)
            *left, value = steps[place].split(" ")
            steps[place] = " ".join([*left, str((int(value) + 1) % 31)])
            found = valid_steps("chain", options, problem, steps)
            assert found is not None and not found[place]
            # The value after a wrong one is right for the question, and no longer follows (unless times 0 modulo 31).
            assert all(found) is False and found[:place] == [True] * place


def test_values_follow_from_those_that_are_read():
    options, problem = {"modulus": 31}, Problem("17 + 5 * 3 - 8 =", ("22", "4", "27"), "27")

    def check(*steps):
        return valid_steps("chain", options, problem, steps)

    assert check("22", "4", "27") == [True, True, True]
    assert check("23", "7", "30") == [False, True, True]  # 23 * 3 = 7 and 7 - 8 = 30 modulo 31
    assert check("22", "", "27") == [True, False, False]
    assert check("22", "4", "27", "5") == [True, True, True, False]


def test_data_without_equations_cannot_be_checked():
    prose = Problem("q", ("He has 3.", "He gets 4."), "7")
    assert valid_steps(None, {}, prose, ["3+4=7"]) is None
    assert valid_steps("prosqa", {}, prose, ["3+4=7"]) is None
    sums = Problem("q", ("<<3+4=7>>",), "7")
    assert valid_steps(None, {}, sums, ["<<3+4=7>>", "<<3+4=8>>", "7"]) == [True, False, False]


def naive_distance(a, b):
    table = {(i, 0): i for i in range(len(a) + 1)} | {(0, j): j for j in range(len(b) + 1)}
    for i, j in product(range(1, len(a) + 1), range(1, len(b) + 1)):
        table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (a[i - 1] != b[j - 1]))
    return table[len(a), len(b)]


def test_edit_distance_equals_the_table():
    rng = np.random.default_rng(0)
    for _ in range(200):
        a, b = (rng.integers(4, size=rng.integers(1, 9)).tolist() for _ in range(2))
        assert edit_distance(a, b) == naive_distance(a, b) / max(len(a), len(b))
    assert edit_distance([], []) == 0 and edit_distance([1], []) == edit_distance([], [1, 2]) == 1


def test_what_is_read_is_scored(make, problems):
    reasoner, writer, few = make(num_latents=4, latents_per_step=2, loops=2), make(num_latents=0), problems[:5]
    asked = []

    def valid(problem, steps):
        asked.append((problem, list(steps)))
        return [True, False][: len(steps)] if problem is not few[0] else None

    monitor = Monitor(("distance", "valid", "logprob"), valid, writer)
    found = monitor.read(reasoner, few, [4, 4, 2, 4, 4], batch_size=2)
    for row, (problem, count) in enumerate(zip(few, [4, 4, 2, 4, 4], strict=True)):
        tokens = read_latents(reasoner, [reasoner.prompt_ids(problem.question, count)]).tokens[-1, 0, :, 0].tolist()
        assert found[row].texts == block_texts(reasoner, tokens) and asked[row] == (problem, found[row].texts)
        chain = reasoner.tokenizer(" ".join(found[row].texts), add_special_tokens=False)["input_ids"]
        steps = reasoner.tokenizer(" ".join(problem.steps), add_special_tokens=False)["input_ids"]
        assert found[row].scores["distance"] == naive_distance(chain, steps) / max(len(chain), len(steps))
        prompt = writer.prompt_ids(problem.question)
        logits = writer.model(input_ids=torch.tensor([prompt + chain])).logits[0, len(prompt) - 1 : -1]
        logits[:, list(writer.config.token_ids)] = -torch.inf
        mean = logits.log_softmax(-1).gather(1, torch.tensor(chain)[:, None]).mean().item()
        assert found[row].scores["logprob"] == pytest.approx(mean, abs=2e-5)  # kept with five decimals
    assert found[0].scores["valid"] is None and found[1].scores["valid"] == 0.5
    assert len({tuple(one.texts) for one in found}) > 1


def test_other_loops_and_blocks_are_those_that_are_read(make, problems):
    reasoner, monitor = make(num_latents=4, latents_per_step=2, loops=3), Monitor((), lambda problem, steps: None)
    few, counts = problems[:20], [4] * 20
    fewer, narrower = monitor.read(reasoner, few, counts, loops=1), monitor.read(reasoner, few, counts, 1, 1)
    trained = monitor.read(reasoner, few, counts)
    reasoner.model.set_latent_config(loops=1)
    assert fewer == monitor.read(reasoner, few, counts) != trained
    reasoner.model.set_latent_config(latents_per_step=1)
    assert narrower == monitor.read(reasoner, few, counts) and {len(one.texts) for one in narrower} == {4}


def test_blocks_that_say_nothing_do_not_count(reasoner, problems):
    monitor = Monitor(("valid",), lambda problem, steps: [True, False, True])
    assert monitor._valid(problems[0], ["a", "b", "c"]) == pytest.approx(2 / 3)
    assert monitor._valid(problems[0], ["a", "", "c"]) == 1.0 and monitor._valid(problems[0], ["", "", ""]) == 0.0


def sampled(right, **scores):
    rows = [dict(zip(scores, row, strict=True)) for row in zip(*scores.values(), strict=True)]
    return [
        Sampled(f"q{i}", ["x"], [float(ok)], [0.0], [1], [2], 2, [i], thought=["a"], monitored=row)
        for i, (ok, row) in enumerate(zip(right, rows, strict=True))
    ]


def test_auroc_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    right = rng.integers(2, size=60)
    distance, valid = rng.random(60).round(1), (rng.random(60) + 0.5 * right).round(1)
    found = judge_monitor(sampled(right, distance=distance.tolist(), valid=valid.tolist()), 200, 0)
    assert found["distance"].auroc == pytest.approx(roc_auc_score(1 - right, distance))
    assert found["valid"].auroc == pytest.approx(roc_auc_score(1 - right, -valid))
    low, high = found["valid"].ci95
    assert low < found["valid"].auroc < high and found["valid"].n == 60
    assert found["valid"].right == pytest.approx(valid[right == 1].mean())
    assert found["valid"].wrong == pytest.approx(valid[right == 0].mean())


def test_scores_that_cannot_be_judged():
    found = judge_monitor(sampled([1, 1, 1], valid=[0.5, 1.0, None]), 50, 0)
    assert (found["valid"].auroc, found["valid"].ci95, found["valid"].n, found["valid"].wrong) == (None, None, 2, None)
    assert found["valid"].right == 0.75
    assert judge_monitor(sampled([1, 0], valid=[None, None]), 50, 0) == {}
    rows = sampled([1, 0], valid=[1.0, 0.0])
    assert judge_monitor([rows[0], replace(rows[1], monitored=None)], 50, 0) is None


def test_kept_samples_without_the_scores_are_drawn_again(tmp_path):
    reasoner, problems, options = copying(), word_problems(6), EvaluateSection(max_new_tokens=2)
    monitor = Monitor(("distance",), lambda problem, steps: None)
    drawn = {}
    for name, reader in (("none", None), ("some", monitor), ("again", monitor), ("fewer", None)):
        effort = Effort()
        file = SampleFile(tmp_path / "greedy.jsonl", {})
        drawn[name] = draw_samples(reasoner, problems, Setting(), options, 0, file, None, effort, reader)
        assert effort.reused == {"none": 0, "some": 0, "again": 6, "fewer": 6}[name]
        assert (effort.monitoring > 0) == (name == "some")
    assert drawn["none"][0].monitored is None and drawn["some"] == drawn["again"] == drawn["fewer"]
    assert [row.texts for row in drawn["none"]] == [row.texts for row in drawn["some"]]


def test_eval_monitors_greedy_thoughts(capsys, finished, tmp_path):
    output = tmp_path / "e.json"
    scores = "evaluate.monitor=[distance,valid,logprob]"
    code, out, error = neuralese(capsys, "eval", finished, scores, "--output", output)
    rows = read_results(output)
    assert code == 0 and "Thoughts that are read" in out, error
    monitored = {row.stage: row.monitor for row in rows if row.monitor is not None}
    assert set(monitored) == {"curriculum", "rl"} and {row.metric for row in rows if row.monitor} == {"accuracy"}
    assert all(list(found) == ["distance", "valid", "logprob"] for found in monitored.values())
    assert all(one.n == 20 for found in monitored.values() for one in found.values())
    lines = (tmp_path / "e-samples" / "rl" / "greedy.jsonl").read_text().splitlines()
    row = json.loads(lines[1])
    assert len(row["thought"]) == 2 and row["monitored"]["logprob"] < 0
    for key, names in (("evaluate.monitor=[]", None), ("evaluate.monitor=[valid]", ["valid"])):
        other = tmp_path / "o.json"
        assert neuralese(capsys, "eval", finished / "rl" / "final", key, "--output", other)[0] == 0
        (row,) = (row for row in read_results(other) if row.metric == "accuracy")
        assert (list(row.monitor) if row.monitor else None) == names


def test_tables_and_old_results(finished, tmp_path, capsys):
    rows = read_results(finished / "results.json")
    found = next(row.monitor for row in rows if row.stage == "rl" and row.metric == "accuracy")
    assert list(found) == ["distance", "valid"]
    headings, lines = monitor_rows(rows)
    assert [line[2] for line in lines] == ["distance", "valid"] * 2 and len(headings) == len(lines[0])
    assert "Thoughts that are read" in write_report(finished).read_text()
    values = {"stage": "rl", "mode": "latent", "metric": "accuracy", "k": 1, "noise": None, "temperature": 0.0,
              "value": 0.5, "ci95": [0.4, 0.6], "n": 9, "seed": 0}  # fmt: skip
    old = Measurement.from_dict(values)
    assert old.monitor is None and old.thought is None and monitor_rows([old])[1] == []
    print_results([old], {})
    assert "Thoughts that are read" not in capsys.readouterr().out
