"""Graph path: any path from a start to a goal in a small directed graph, a task with several right answers.

`3>7 5>2 ... [S] 3 [G] 9` asks for the nodes of a path from 3 to 9, such as `3 7 2 9`. The steps are the nodes between
them, backwards from the goal ("2", "7"): the steps search from the goal, the answer lists the path from the start. An
edge is one word, so that a small model has to learn only how to follow edges, not how to read them.

Nodes form layers and edges lead to the next layer, so all paths from start to goal are equally long. Forwards, most
branches miss the goal. Backwards, every branch ends at a node of the first layer, a source. With one source that is the
start.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

from .errors import DataError
from .graphs import (
    Edge,
    bridges,
    count_shortest_paths,
    distances,
    draw_shortest_path,
    neighbours,
)
from .problem import Problem
from .splits import Split, check_integer, draw_different, seeded

_MOST_GRAPHS = 10_000


@dataclass(frozen=True)
class GraphPathTask:
    """The distribution of problems.

    Attributes:
        num_nodes: the sources, and the other nodes, split evenly over `path_length` layers.
        num_edges: edges. Each node but the sources has at least one from the layer before.
        path_length: edges from start to goal. A problem has one step less.
        num_sources: nodes of the first layer, one of which is the start. With 1 every way back from the goal is right.
            With more a step can be wrong, so that the model has to look ahead.
        min_paths: right answers that each problem has at least.

    Raises DataError when a setting is not an integer in its range.
    """

    num_nodes: int = 13
    num_edges: int = 18
    path_length: int = 4
    num_sources: int = 1
    min_paths: int = 2

    def __post_init__(self) -> None:
        check_integer("path_length", self.path_length, 2)
        check_integer("num_sources", self.num_sources, 1)
        check_integer("min_paths", self.min_paths, 1)
        check_integer("num_nodes", self.num_nodes, self.num_sources + self.path_length)
        most = sum(len(before) * len(layer) for before, layer in pairwise(_layers(self)))
        check_integer("num_edges", self.num_edges, self.num_nodes - self.num_sources, most)


def generate(task: GraphPathTask, size: int, split: Split, seed: int) -> list[Problem]:
    """Return `size` different problems of one split, the same ones for the same arguments.

    The extra columns are `edges`, `start` and `goal`; the reward `valid_path` reads them. A node's number is its word.

    Raises:
        DataError: `size` is below 1 or above what the split holds; `split` is neither "train" nor "eval"; the settings
            of the task allow no graph.
    """
    rng = seeded(size, split, seed)

    def draw() -> tuple[str, Problem]:
        problem = _draw_problem(task, rng)
        return problem.question, problem

    return draw_different(draw, size, split, task)


def _layers(task: GraphPathTask) -> list[range]:
    """Return the nodes of each layer, before they get other numbers."""
    rest = task.num_nodes - task.num_sources
    ends = [task.num_sources + rest * layer // task.path_length for layer in range(task.path_length + 1)]
    return [range(task.num_sources), *(range(start, end) for start, end in pairwise(ends))]


def _draw_edges(task: GraphPathTask, rng: random.Random) -> list[Edge]:
    """Draw one edge into each node but the sources, then any others."""
    pairs = list(pairwise(_layers(task)))
    needed = {(rng.choice(before), node) for before, layer in pairs for node in layer}
    others = [edge for pair in pairs for edge in product(*pair) if edge not in needed]
    edges = [*sorted(needed), *rng.sample(others, task.num_edges - len(needed))]
    rng.shuffle(edges)
    return edges


def _draw_problem(task: GraphPathTask, rng: random.Random) -> Problem:
    layers = _layers(task)
    for _ in range(_MOST_GRAPHS):
        # Random numbers for each problem: numbers in order would give the layer away.
        number = rng.sample(range(task.num_nodes), task.num_nodes)
        edges = [(number[a], number[b]) for a, b in _draw_edges(task, rng)]
        start, goal = number[rng.choice(layers[0])], number[rng.choice(layers[-1])]
        successors, predecessors = neighbours(edges, task.num_nodes)
        distance = distances(successors, start)
        if count_shortest_paths(predecessors, distance).get(goal, 0) >= task.min_paths:
            return _problem(edges, draw_shortest_path(predecessors, distance, goal, rng))
    raise DataError(f"{task} gave no problem in {_MOST_GRAPHS} graphs. Raise num_edges, or lower min_paths.")


def _problem(edges: Sequence[Edge], path: Sequence[int]) -> Problem:
    """Return the problem of a graph whose answer is `path`."""
    start, goal = path[0], path[-1]
    return Problem(
        question=f"{' '.join(f'{a}>{b}' for a, b in edges)} [S] {start} [G] {goal}",
        steps=tuple(map(str, path[-2:0:-1])),
        answer=" ".join(map(str, path)),
        extra={"edges": [list(edge) for edge in edges], "start": start, "goal": goal},
    )


def changes(task: GraphPathTask, problem: Problem, rng: random.Random) -> Iterator[Problem]:
    """Yield variants of a problem, in random order: one edge begins at another node, and no right answer stays right.

    Every path of the problem uses the changed edge, and every path of the variant uses the new one. The new one begins
    at a node as far from the start, so paths stay equally long. Some problems have no variant.
    """
    edges: list[Edge] = [(a, b) for a, b in problem.extra["edges"]]
    start, goal = problem.extra["start"], problem.extra["goal"]
    distance = distances(neighbours(edges, task.num_nodes)[0], start)
    changed = [
        [*edges[:index], (other, edges[index][1]), *edges[index + 1 :]]
        for index in bridges(edges, task.num_nodes, start, goal)
        for other, away in distance.items()
        if away == distance[edges[index][0]] and (other, edges[index][1]) not in edges
    ]
    for candidate in rng.sample(changed, len(changed)):
        successors, predecessors = neighbours(candidate, task.num_nodes)
        away = distances(successors, start)
        if goal in away:
            yield _problem(candidate, draw_shortest_path(predecessors, away, goal, rng))
