"""Graph path: references that are right, several right answers, and ways back that end where they should."""

import random
from collections import Counter

import pytest

from neuralese.data import DataError, GraphPathTask
from neuralese.data.graph_path import generate
from neuralese.data.graphs import (
    count_shortest_paths,
    distances,
    draw_shortest_path,
    neighbours,
)
from neuralese.rewards import valid_path

TASKS = [GraphPathTask(), GraphPathTask(8, 11, 3), GraphPathTask(15, 24, 3, num_sources=3, min_paths=1)]

# 0 -> 1, 2, 3; 1, 2 -> 4; 3 -> 5; 4, 5 -> 6; 0 -> 4 and 6 -> 0 lead astray. Shortest to 6: 0 4 6 alone.
EDGES = [(0, 1), (0, 2), (0, 3), (1, 4), (2, 4), (3, 5), (4, 6), (5, 6), (6, 0), (0, 4)]


def read_question(question):
    """The reference reader: edges, start and goal as words."""
    graph, ends = question.split(" [S] ")
    start, marker, goal = ends.split(" ")
    assert marker == "[G]"
    return [tuple(edge.split(">")) for edge in graph.split(" ")], start, goal


def all_paths(edges, start, goal, seen=()):
    """The reference search: every path that visits no node twice."""
    if start == goal:
        return [(*seen, goal)]
    following = [end for source, end in edges if source == start and end not in seen]
    return [path for end in following for path in all_paths(edges, end, goal, (*seen, start))]


@pytest.mark.parametrize("task", TASKS)
def test_the_reference_is_one_of_several_right_answers(task):
    problems = generate(task, 300, "train", 2)
    for problem in problems:
        edges, start, goal = read_question(problem.question)
        paths = all_paths(edges, start, goal)
        assert len(edges) == len(set(edges)) == task.num_edges
        assert tuple(problem.answer.split(" ")) in paths
        assert {len(path) - 1 for path in paths} == {task.path_length}
        assert len(paths) >= task.min_paths
        assert problem.steps == tuple(problem.answer.split(" ")[-2:0:-1])
        assert [tuple(map(str, edge)) for edge in problem.extra["edges"]] == edges
        assert (str(problem.extra["start"]), str(problem.extra["goal"])) == (start, goal)
    columns = {key: [problem.extra[key] for problem in problems] for key in ("edges", "start", "goal")}
    answers = [f"{' '.join(problem.steps)} ### {problem.answer}" for problem in problems]
    assert valid_path([""] * 300, answers, **columns) == [1.0] * 300
    assert valid_path([""] * 300, [" ".join(problem.steps) for problem in problems], **columns) == [0.0] * 300


def test_the_defaults_have_several_paths_and_only_few_ways_forward_reach_the_goal():
    rng, num_paths, reached = random.Random(0), 0, 0
    for problem in generate(GraphPathTask(), 1_000, "train", 0):
        edges, start, goal = read_question(problem.question)
        num_paths += len(all_paths(edges, start, goal))
        while following := [end for source, end in edges if source == start]:
            start = rng.choice(following)
        reached += start == goal
    assert 4 < num_paths / 1_000 < 5
    assert reached / 1_000 < 0.33


@pytest.mark.parametrize(("num_sources", "every"), [(1, True), (3, False)])
def test_a_way_back_ends_at_the_start_when_it_is_the_only_source(num_sources, every):
    task = GraphPathTask(15, 24, 4, num_sources)
    ends = []
    for problem in generate(task, 200, "train", 0):
        edges, start, goal = read_question(problem.question)
        sources = {source for source, _ in edges} - {end for _, end in edges}
        assert start in sources
        ends.append(all(not all_paths(edges, source, goal) for source in sources - {start}))
    assert all(ends) == every


def test_numbers_tell_nothing_about_a_node():
    problems = generate(GraphPathTask(), 4_000, "train", 0)
    for nodes in ([p.extra["start"] for p in problems], [p.extra["goal"] for p in problems],
                  [p.extra["edges"][0][0] for p in problems]):  # fmt: skip
        counts = Counter(nodes)
        assert len(counts) == 13
        assert max(abs(count / 4_000 - 1 / 13) for count in counts.values()) < 0.02


def test_a_word_is_a_node_an_edge_or_a_marker():
    task = GraphPathTask(6, 7, 2)
    words = {word for p in generate(task, 800, "train", 0) for t in (p.question, p.answer) for word in t.split(" ")}
    nodes = [str(node) for node in range(6)]
    assert words == {*nodes, *(f"{a}>{b}" for a in nodes for b in nodes if a != b), "[S]", "[G]"}


def test_shortest_paths_by_hand():
    successors, predecessors = neighbours(EDGES[:-1], 7)
    assert successors[0] == [1, 2, 3] and predecessors[4] == [1, 2]
    away = distances(successors, 0)
    assert away == {0: 0, 1: 1, 2: 1, 3: 1, 4: 2, 5: 2, 6: 3}
    assert count_shortest_paths(predecessors, away) == {0: 1, 1: 1, 2: 1, 3: 1, 4: 2, 5: 1, 6: 3}
    successors, predecessors = neighbours(EDGES, 7)
    assert count_shortest_paths(predecessors, distances(successors, 0))[6] == 1


def test_each_shortest_path_has_the_same_chance():
    successors, predecessors = neighbours(EDGES[:-1], 7)
    away, rng = distances(successors, 0), random.Random(0)
    counts = Counter(tuple(draw_shortest_path(predecessors, away, 6, rng)) for _ in range(6_000))
    assert set(counts) == {(0, 1, 4, 6), (0, 2, 4, 6), (0, 3, 5, 6)}
    assert all(abs(count / 6_000 - 1 / 3) < 0.03 for count in counts.values())
    assert draw_shortest_path(predecessors, away, 0, rng) == [0]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"path_length": 1}, "path_length is 1"),
        ({"num_sources": 0}, "num_sources is 0"),
        ({"min_paths": 0}, "min_paths is 0"),
        ({"num_nodes": 4}, "num_nodes is 4. It must be an integer of at least 5"),
        ({"num_edges": 11}, "num_edges is 11. It must be an integer in 12..30"),
        ({"num_edges": 31}, "num_edges is 31"),
        ({"num_edges": 18.0}, "num_edges is 18.0"),
    ],
)
def test_settings_are_checked(settings, said):
    with pytest.raises(DataError, match=said):
        GraphPathTask(**settings)


def test_every_edge_there_can_be():
    problem = generate(GraphPathTask(num_edges=30), 1, "train", 0)[0]
    assert len(all_paths(*read_question(problem.question))) == 27


def test_more_paths_than_a_graph_can_have_are_an_error():
    with pytest.raises(DataError, match="gave no problem in 10000 graphs. Raise num_edges, or lower min_paths"):
        generate(GraphPathTask(num_edges=12), 1, "train", 0)
