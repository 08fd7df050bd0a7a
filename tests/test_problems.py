"""How training problems are held out and drawn."""

import os
import subprocess
import sys

from neuralese.data.problem import Problem
from neuralese.pipeline.problems.load import draw_training, hold_out, seeded_order

SORTED = [Problem(f"{i} =", (), str(i)) for i in range(400)]


def places(problems):
    return [int(problem.answer) for problem in problems]


def test_held_out_problems_are_spread_over_a_sorted_file():
    held, others = hold_out(SORTED, 100, 0)
    assert sorted([*places(held), *places(others)]) == list(range(400)) and places(others) == sorted(places(others))
    # The mean of 100 of 0 … 399 without replacement: 199.5, σ = √((400² − 1) / 12 / 100 · 300 / 399) = 10.0.
    assert abs(sum(places(held)) / 100 - 199.5) < 3 * 10
    assert len({place // 40 for place in places(held)}) == 10


def test_more_held_out_problems_are_those_and_further_ones():
    assert hold_out(SORTED, 16, 3)[0] == hold_out(SORTED, 256, 3)[0][:16]
    assert hold_out(SORTED, 16, 3)[0] != hold_out(SORTED, 16, 4)[0]
    assert hold_out(SORTED, 0, 0) == ([], SORTED) and hold_out(SORTED, 500, 0)[1] == []


def test_an_order_is_that_of_its_seed_in_every_process():
    code = "from neuralese.pipeline.problems.load import seeded_order; print(seeded_order(50, 7, 'held out'))"
    env = {**os.environ, "RANK": "1", "PYTHONHASHSEED": "1"}
    found = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(seeded_order(50, 7, "held out"))


def test_what_is_drawn_is_drawn_by_seed_and_for_its_own_purpose():
    drawn = places(draw_training(SORTED, 100, 0))
    assert len(set(drawn)) == 100 and drawn != places(hold_out(SORTED, 100, 0)[0]) and max(drawn) > 350
    assert len(draw_training(SORTED, 1000, 0)) == 400
