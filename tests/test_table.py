"""The results table: every checkpoint has a line, whatever was measured."""

from dataclasses import replace

from neuralese.pipeline.evaluate.measure import Measurement
from neuralese.pipeline.evaluate.table import chosen_rows, results_columns, table_rows


def row(stage, metric, k, value, noise=None, temperature=0.0):
    return Measurement(stage, "latent", metric, k, noise, temperature, value, (value - 0.1, value + 0.1), 10, 0)


def test_a_line_for_each_sampling_setting_with_the_greedy_value():
    rows = [
        row("rl", "accuracy", 1, 0.5),
        row("rl", "pass@k", 4, 0.7, "gaussian:0.3"),
        row("rl", "maj@k", 4, 0.6, "gaussian:0.3"),
        row("rl", "pass@k", 4, 0.8, None, 1.0),
    ]
    assert table_rows(rows, {"rl": 12.4}) == [
        ["latent after RL", "gaussian:0.3, T 0", "0.500 (0.40-0.60)", "0.700 (0.60-0.80)", "0.600 (0.50-0.70)", "12"],
        ["latent after RL", "T 1", "0.500 (0.40-0.60)", "0.800 (0.70-0.90)", "", "12"],
    ]


def test_the_last_line_is_the_guess_floor():
    rows = [row("rl", "accuracy", 1, 0.5), row("rl", "pass@k", 4, 0.7), row("rl", "maj@k", 4, 0.6)]
    rows[:2] = replace(rows[0], guess=0.1), replace(rows[1], guess=0.34)
    assert table_rows(rows, {})[-1] == ["guessing", "", "0.100", "0.340", "", ""]


def test_a_checkpoint_measured_greedily_alone_has_its_line():
    lines = table_rows([row("sft", "accuracy", 1, 0.9), row("mine", "accuracy", 1, 0.1)], {})
    assert lines == [["text CoT", "greedy", "0.900 (0.80-1.00)", ""], ["mine", "greedy", "0.100 (0.00-0.20)", ""]]


def test_searches_are_shown_with_what_they_cost():
    noisy = {"latents": 6.0, "tokens": 9.0, "num_samples": 8, "seconds": 0.1}
    rows = [
        replace(row("rl", "pass@k", 4, 0.7, "gaussian:0.3"), **noisy),
        replace(row("rl", "maj@k", 4, 0.6, "gaussian:0.3"), **noisy),
        replace(row("rl", "pass@k", 1, 0.7, "gaussian:0.3"), latents=2.0, tokens=3.0, num_samples=8, seconds=0.1),
        replace(row("rl", "pass@k", 3, 0.7, "gaussian:0.3"), **{**noisy, "num_samples": 3, "search": "beam3x2"}),
        row("rl", "pass@k", 4, 0.8, None, 1.0),  # of an earlier version
    ]
    headings, lines = chosen_rows(rows)
    assert headings == ["model", "samples", "k", "majority", "oracle", "latents", "tokens", "ms"]
    oracle = "0.700 (0.60-0.80)"
    assert lines == [
        ["latent after RL", "gaussian:0.3, T 0", "4", "0.600 (0.50-0.70)", oracle, "6.0", "9.0", "50.0"],
        ["latent after RL", "beam3x2, gaussian:0.3, T 0", "3", "", oracle, "6.0", "9.0", "100.0"],
        ["latent after RL", "T 1", "4", "", "0.800 (0.70-0.90)", "", "", ""],
    ]
    greedy = row("rl", "accuracy", 1, 0.9)
    assert [line[1] for line in table_rows([greedy, *rows], {})] == ["gaussian:0.3, T 0", "T 1"]
    assert results_columns(rows) == [("pass@k", 1), ("pass@k", 4), ("maj@k", 4)]
