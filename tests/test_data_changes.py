"""Problems with one operand or edge changed: solved anew by an independent computation."""

import random
from itertools import pairwise

import pytest

from neuralese.data.chain import ChainTask
from neuralese.data.chain import changes as chain_changes
from neuralese.data.graphs import bridges
from neuralese.data.problem import Problem
from neuralese.data.splits import split_of
from neuralese.data.tasks import change_one, generate_task, guess_share

SMALL = {"form": "edges", "num_nodes": 12, "min_steps": 2, "max_steps": 4, "balanced": True}


def pairs(name, options, size=60):
    problems = generate_task(name, options, size, "eval", 0)
    changed = [(problem, change_one(name, options, problem, 3)) for problem in problems]
    assert changed == [(problem, change_one(name, options, problem, 3)) for problem in problems]
    return [(problem, other) for problem, other in changed if other is not None]


def different_words(one, other):
    return sum(a != b for a, b in zip(one.split(), other.split(), strict=True))


def test_a_chain_with_one_number_changed_has_the_answer_of_a_calculator():
    found = pairs("chain", {})
    assert len(found) == 60
    for problem, other in found:
        assert different_words(problem.question, other.question) == 1
        value, *rest = other.question.removesuffix(" =").split()
        value, running = int(value), []
        for operator, operand in zip(rest[::2], rest[1::2], strict=True):
            value = {"+": value + int(operand), "-": value - int(operand), "*": value * int(operand)}[operator] % 31
            running.append(str(value))
        assert list(other.steps) == running and other.answer == running[-1] != problem.answer
        assert split_of(other.question) == "eval"


def test_every_number_of_a_chain_may_change():
    task = ChainTask(modulus=7, num_operations=2)
    problem = Problem("3 + 4 - 2 =", ("0", "5"), "5")
    changed = list(chain_changes(task, problem, random.Random(0)))
    places = set()
    for one in changed:
        words = zip(problem.question.split(), one.question.split(), strict=True)
        places |= {place for place, (old, new) in enumerate(words) if old != new}
    assert places == {0, 2, 4} and len({one.question for one in changed}) == len(changed)
    # The start takes 6 other values, an operand 8, of which one is the same modulo 7 (4 none: 4 + 7 is above 9).
    assert len(changed) == 6 + 8 + 7


def test_changes_may_be_kept_to_the_first_steps():
    for problem in generate_task("chain", {}, 40, "eval", 0):
        other = change_one("chain", {}, problem, 0, within=1)
        assert problem.question.split()[3:] == other.question.split()[3:] and other.steps[0] != problem.steps[0]
    problem = Problem("1 + 4 * 5 =", ("0", "0"), "0")
    assert change_one("chain", {"modulus": 5, "num_operations": 2}, problem, 0, within=1) is None


def reaches(edges, start, goal):
    known = {start}
    for _ in edges:
        known |= {end for source, end in edges if source in known}
    return goal in known


@pytest.mark.parametrize("options", [SMALL, {"form": "symbolic"}, {"form": "text"}], ids=["edges", "symbolic", "text"])
def test_prosqa_with_one_edge_changed_has_the_other_answer(options):
    found = pairs("prosqa", options)
    assert len(found) > 30
    for problem, other in found:
        edges = other.extra["edges"]
        assert sum(a != b for a, b in zip(problem.extra["edges"], edges, strict=True)) == 1
        assert different_words(problem.question, other.question) == 1
        assert (other.extra["target"], other.extra["neg_target"]) == (
            problem.extra["neg_target"],
            problem.extra["target"],
        )
        root = other.extra["root"]
        assert reaches(edges, root, other.extra["target"]) and not reaches(edges, root, other.extra["neg_target"])
        if options["form"] == "text":
            names = other.extra["idx_to_symbol"]
            facts = other.question.split(" Is ")[0]
            assert other.answer == f"{names[root]} is a {names[other.extra['target']]}."
            assert all(f" {step}" in f" {facts}" for step in other.steps)
        else:
            path = [root, *map(int, other.steps)]
            assert all([a, b] in edges for a, b in pairwise(path))
            assert other.answer == other.steps[-1] == str(other.extra["target"])
            facts = other.question.split(" [Q]")[0].replace(">", " ").replace("|", " ").split()
            assert list(map(int, facts)) == [node for edge in edges for node in edge]


def test_graph_path_with_one_edge_changed_keeps_no_right_answer():
    from neuralese.rewards.builtin import valid_path

    def is_valid(answer, problem):
        columns = {name: [value] for name, value in problem.extra.items()}
        return valid_path([problem.question], [f"### {answer}"], **columns) == [1.0]

    found = pairs("graph_path", {})
    assert len(found) > 20
    for problem, other in found:
        assert different_words(problem.question, other.question) == 1
        assert is_valid(other.answer, other) and not is_valid(other.answer, problem)
        assert is_valid(problem.answer, problem) and not is_valid(problem.answer, other)
        assert list(other.steps) == other.answer.split()[-2:0:-1] and len(other.steps) == len(problem.steps)


def test_bridges_by_hand():
    edges = [(0, 1), (1, 2), (1, 3), (2, 4), (3, 4), (4, 5), (0, 6)]
    assert bridges(edges, 7, 0, 5) == [0, 5]
    assert bridges(edges, 7, 0, 6) == [6]


def test_the_share_that_a_guess_gets_right():
    problems = [Problem("a", (), "1"), Problem("b", (), "1"), Problem("c", (), "2"), Problem("d", (), "3")]
    assert guess_share(None, problems) == guess_share("chain", problems) == 0.5
    assert guess_share("prosqa", generate_task("prosqa", SMALL, 30, "eval", 0)) == 0.5
    assert guess_share(None, generate_task("chain", {}, 300, "eval", 0)) < 0.1
