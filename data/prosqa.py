"""ProsQA: which of two concepts a person is, by following edges of a random graph (Coconut, arXiv 2412.06769, app. A).

Two families of nodes grow from two roots. The question names one root and two candidates. The answer is a leaf that
descends from this root only; the other candidate descends from the other root only. The steps are a shortest path from
the root to the answer.

Forms. text: a step is a sentence, as in the published set. symbolic (after arXiv 2505.12514): the question is
`3 7 | 5 2 | ... [Q] 4 9 [R] 3` (edges, candidates, root) and a step is the next node, one word. edges: as symbolic with
one word an edge, `3>7 5>2 ... [Q] 4 9 [R] 3`, so that a small model need not learn how to read edges.
"""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import nlargest
from itertools import accumulate, pairwise
from typing import Any, Literal

from .errors import DataError, shown
from .graphs import Edge, bridges, distances, draw_shortest_path, neighbours
from .problem import Problem, parse_problem
from .splits import Split, check_choice, check_integer, draw_different, seeded

# fmt: off
PERSONS = (
    "Alex", "Bob", "Carol", "Davis", "Eva", "Fae", "Gabriel", "Jack", "Max", "Oliver", "Polly", "Rex", "Sally", "Sam",
    "Stella", "Tom", "Wren",
)
CONCEPTS = (
    "bompus", "boompus", "brimpus", "chorpus", "dumpus", "felpus", "fompus", "gerpus", "gorpus", "grimpus", "gwompus",
    "hilpus", "impus", "jelpus", "jompus", "kerpus", "lempus", "lorpus", "numpus", "quimpus", "rempus", "rompus",
    "rorpus", "scrompus", "shumpus", "sterpus", "storpus", "terpus", "timpus", "tumpus", "vumpus", "worpus", "wumpus",
    "yerpus", "yimpus", "yumpus", "zhorpus", "zumpus",
)
# fmt: on

# Possible parents of a new node: the first family only, the second only, any node; and the chance of each. The chances
# and the depth weight are fitted to the published set.
_POOLS, _POOL_WEIGHTS = (1, 2, None), (0.35, 0.45, 0.2)
_DEPTH_WEIGHT = 1.5
_MOST_PARENTS = 50
_MOST_GRAPHS = 10_000


@dataclass(frozen=True)
class ProsQATask:
    """The distribution of problems. The defaults have the statistics of the published set.

    Attributes:
        form: "text", "symbolic" or "edges".
        num_nodes: nodes to draw. Nodes without any edge are left out. At most 40 in the text form, which has no more
            names.
        mean_parents: mean of the Poisson number of parents of a node, which is then cut to the possible parents.
        min_steps, max_steps: edges from root to answer.
        balanced: False, as published: the answer is the deepest leaf of the deeper family, the other candidate any leaf
            of the other family. Depth and in-degree then hint at the answer. True: both are the deepest leaves of their
            families, min_steps to max_steps from their roots, and a coin chooses the root. Then only the path from the
            root tells them apart.

    Raises DataError when a setting is out of its range.
    """

    form: Literal["text", "symbolic", "edges"] = "text"
    num_nodes: int = 28
    mean_parents: float = 1.5
    min_steps: int = 3
    max_steps: int = 6
    balanced: bool = False

    def __post_init__(self) -> None:
        check_choice("form", self.form, ("text", "symbolic", "edges"))
        check_integer("num_nodes", self.num_nodes, 4, len(CONCEPTS) + 2 if self.form == "text" else None)
        check_integer("min_steps", self.min_steps, 1)
        check_integer("max_steps", self.max_steps, self.min_steps)
        is_number = isinstance(self.mean_parents, int | float) and not isinstance(self.mean_parents, bool)
        if not is_number or not 0 < self.mean_parents <= 10:
            raise DataError(f"mean_parents is {self.mean_parents!r}. It must be a number above 0 and at most 10.")
        if not isinstance(self.balanced, bool):
            raise DataError(f"balanced is {self.balanced!r}. It must be true or false.")


@dataclass(frozen=True)
class _Graph:
    """A problem before its nodes have names. The roots are nodes 0 and 1.

    Attributes:
        path: from the root of the question to the answer.
        negative: the other candidate.
    """

    num_nodes: int
    edges: list[Edge]
    path: list[int]
    negative: int


def generate(task: ProsQATask, size: int, split: Split, seed: int) -> list[Problem]:
    """Return `size` different problems of one split, the same ones for the same arguments.

    The extra columns are `edges`, `root`, `target` and `neg_target`, and in the text form `idx_to_symbol`, the names of
    the nodes. In the other forms a node's number is its word.

    Raises:
        DataError: `size` is below 1 or above what the split holds; `split` is neither "train" nor "eval"; the settings
            of the task allow no graph.
    """
    rng = seeded(size, split, seed)
    write = _text if task.form == "text" else _symbolic

    def draw() -> tuple[str, Problem]:
        problem = write(task, _draw_graph(task, rng), rng)
        return problem.question, problem

    return draw_different(draw, size, split, task)


def _draw_graph(task: ProsQATask, rng: random.Random) -> _Graph:
    """Draw graphs until one fits the task."""
    for _ in range(_MOST_GRAPHS):
        num_nodes, edges, families = _grow(task, rng)
        successors, predecessors = neighbours(edges, num_nodes)
        from_roots = distances(successors, 0), distances(successors, 1)
        leaves = [
            {node: steps for node, steps in away.items() if node > 1 and not successors[node] and families[node] == bit}
            for bit, away in zip((1, 2), from_roots, strict=True)
        ]
        if task.form == "text" and sum(not previous for previous in predecessors) > len(PERSONS):
            continue
        chosen = _choose(task, leaves, rng)
        if chosen:
            root, target, negative = chosen
            path = draw_shortest_path(predecessors, from_roots[root], target, rng)
            return _Graph(num_nodes, edges, path, negative)
    raise DataError(
        f"{task} gave no problem in {_MOST_GRAPHS} graphs. Raise num_nodes or max_steps, or lower min_steps."
    )


def _grow(task: ProsQATask, rng: random.Random) -> tuple[int, list[Edge], list[int]]:
    """Return the number of nodes, the edges, and of which roots each node descends: bit 1 for node 0, 2 for node 1."""
    families, weights, edges = [1, 2], [1.0, 1.0], []
    depths = [0, 0]
    counts = range(min(task.num_nodes, _MOST_PARENTS))
    # Cumulative Poisson weights, not normalised.
    chances = list(accumulate(task.mean_parents**count / math.factorial(count) for count in counts))
    for node in range(2, task.num_nodes):
        pool = rng.choices(_POOLS, _POOL_WEIGHTS)[0]
        allowed = [one for one in range(node) if pool is None or families[one] == pool]
        count = rng.choices(counts, cum_weights=chances)[0]
        # A draw without replacement by weight: the largest keys u^(1/weight). Deep nodes weigh more, for longer paths.
        parents = nlargest(count, allowed, key=lambda one: rng.random() ** (1 / weights[one]))
        family = 0
        for parent in parents:
            family |= families[parent]
            edges.append((parent, node))
        families.append(family)
        depths.append(1 + min(depths[parent] for parent in parents) if parents else 0)
        weights.append(1 + _DEPTH_WEIGHT * depths[node])
    kept = sorted({0, 1} | {node for edge in edges for node in edge})
    place = {node: index for index, node in enumerate(kept)}
    return len(kept), [(place[a], place[b]) for a, b in edges], [families[node] for node in kept]


def _choose(task: ProsQATask, leaves: Sequence[dict[int, int]], rng: random.Random) -> tuple[int, int, int] | None:
    """Return root, answer and the other candidate, or None if none fit the task.

    Args:
        leaves: for each family its leaves -> their distance from its root.
    """
    if not leaves[0] or not leaves[1]:
        return None
    deepest = [max(family.values()) for family in leaves]
    root = rng.randrange(2) if task.balanced else max((0, 1), key=lambda one: (deepest[one], rng.random()))
    checked = deepest if task.balanced else [deepest[root]]
    if not all(task.min_steps <= steps <= task.max_steps for steps in checked):
        return None
    ends = [[leaf for leaf, away in family.items() if away == max(family.values())] for family in leaves]
    others = ends[1 - root] if task.balanced else list(leaves[1 - root])
    return root, rng.choice(ends[root]), rng.choice(others)


def _sentence(names: Sequence[str], edge: Edge) -> str:
    """Return an edge in words: `Tom is a dumpus.` or `Every dumpus is a wumpus.`"""
    start, end = edge
    return f"{names[start] if names[start] in PERSONS else f'Every {names[start]}'} is a {names[end]}."


def _text(task: ProsQATask, graph: _Graph, rng: random.Random) -> Problem:
    """Return the problem of a graph in the text form. Nodes without parents are persons."""
    parentless = set(range(graph.num_nodes)) - {node for _, node in graph.edges}
    persons = iter(rng.sample(PERSONS, len(parentless)))
    concepts = iter(rng.sample(CONCEPTS, graph.num_nodes - len(parentless)))
    names = [next(persons if node in parentless else concepts) for node in range(graph.num_nodes)]
    root, target = graph.path[0], graph.path[-1]
    facts = [_sentence(names, edge) for edge in rng.sample(graph.edges, len(graph.edges))]
    first, second = rng.sample([names[target], names[graph.negative]], 2)
    return Problem(
        question=f"{' '.join(facts)} Is {names[root]} a {first} or {second}?",
        steps=tuple(_sentence(names, edge) for edge in pairwise(graph.path)),
        answer=_sentence(names, (root, target)),
        extra={**_columns(graph.edges, root, target, graph.negative), "idx_to_symbol": names},
    )


def _symbolic(task: ProsQATask, graph: _Graph, rng: random.Random) -> Problem:
    """Return the problem of a graph in the symbolic form or the form edges."""
    # Random numbers for each problem: the order in which nodes were drawn would give their depth away.
    number = rng.sample(range(task.num_nodes), graph.num_nodes)
    edges = [(number[start], number[end]) for start, end in rng.sample(graph.edges, len(graph.edges))]
    return _in_numbers(task.form, edges, [number[node] for node in graph.path], number[graph.negative], rng)


def _in_numbers(form: str, edges: Sequence[Edge], nodes: Sequence[int], negative: int, rng: random.Random) -> Problem:
    """Return a problem whose nodes are numbers. `nodes` is the path from the root to the answer."""
    root, *path = nodes
    first, second = rng.sample([path[-1], negative], 2)
    return Problem(
        question=f"{_facts(form, edges)} [Q] {first} {second} [R] {root}",
        steps=tuple(map(str, path)),
        answer=str(path[-1]),
        extra=_columns(edges, root, path[-1], negative),
    )


def _facts(form: str, edges: Sequence[Edge]) -> str:
    written = [f"{start} {end}" if form == "symbolic" else f"{start}>{end}" for start, end in edges]
    return (" | " if form == "symbolic" else " ").join(written)


def changes(task: ProsQATask, problem: Problem, rng: random.Random) -> Iterator[Problem]:
    """Yield variants of a problem: one edge leads to another node, and the other candidate becomes the answer.

    All paths to the answer used the edge. It now leads to the other candidate or to a node above it. Variants whose
    number of steps is nearest to that of the problem come first, in random order if equal. Some problems have none.
    """
    edges: list[Edge] = [(a, b) for a, b in problem.extra["edges"]]
    root, target, negative = (problem.extra[name] for name in ("root", "target", "neg_target"))
    num_nodes = 1 + max(max(edge) for edge in edges)
    predecessors = neighbours(edges, num_nodes)[1]
    # A node without parents gets none: in the text form it is a person.
    above = [node for node in distances(predecessors, negative) if predecessors[node]]
    found = []
    for index in bridges(edges, num_nodes, root, target):
        for node in above:
            changed = [*edges[:index], (edges[index][0], node), *edges[index + 1 :]]
            successors, before = neighbours(changed, num_nodes)
            away = distances(successors, root)
            if negative in away and target not in away:
                found.append((index, changed, draw_shortest_path(before, away, negative, rng)))
    rng.shuffle(found)
    for index, changed, path in sorted(found, key=lambda one: abs(len(one[2]) - 1 - len(problem.steps))):
        yield _changed(task.form, problem, edges[index], changed, path)


def _changed(form: str, problem: Problem, old: Edge, edges: Sequence[Edge], path: Sequence[int]) -> Problem:
    """Return the problem with `edges`, where one edge replaces `old`. `path` leads from the root to the new answer."""
    root, target, negative = path[0], path[-1], problem.extra["target"]
    extra = {**problem.extra, **_columns(edges, root, target, negative)}
    if form == "text":
        names = problem.extra["idx_to_symbol"]
        new = next(edge for edge in edges if edge not in map(tuple, problem.extra["edges"]))
        question = problem.question.replace(_sentence(names, old), _sentence(names, new), 1)
        steps = tuple(_sentence(names, edge) for edge in pairwise(path))
        return Problem(question, steps, _sentence(names, (root, target)), extra)
    rest = problem.question[problem.question.index(" [Q] ") :]
    return Problem(f"{_facts(form, edges)}{rest}", tuple(map(str, path[1:])), str(target), extra)


def parse_symbolic(row: dict[str, Any], where: str) -> Problem:
    """Return a row of the published set in the symbolic form, made from its graph columns.

    Nodes get other numbers and edges another order, both random but fixed by the question: those of the row would give
    the depth of a node away.

    Raises:
        DataError: as `parse_problem`; a graph column is missing, or a step names no node of it.
    """
    problem = parse_problem(row, where)
    missing = [name for name in ("idx_to_symbol", "edges", "root", "neg_target") if name not in problem.extra]
    if missing:
        raise DataError(
            f"{where}: the columns {missing} of ProsQA's graph are missing. Read text rows without a reader."
        )
    extra = problem.extra
    rng = random.Random(problem.question)  # noqa: S311 (reproducible, no secret)
    number = rng.sample(range(len(extra["idx_to_symbol"])), len(extra["idx_to_symbol"]))
    node_of = {name: number[index] for index, name in enumerate(extra["idx_to_symbol"])}
    ends = [step.rstrip(".").split(" ")[-1] for step in problem.steps]
    unknown = [end for end in ends if end not in node_of]
    if unknown or not ends:
        raise DataError(f"{where}: steps is {shown(problem.steps)}. Each must end with a name of idx_to_symbol.")
    edges = [(number[start], number[end]) for start, end in rng.sample(extra["edges"], len(extra["edges"]))]
    nodes = [number[extra["root"]], *(node_of[end] for end in ends)]
    return _in_numbers("symbolic", edges, nodes, number[extra["neg_target"]], rng)


def _columns(edges: Sequence[Edge], root: int, target: int, negative: int) -> dict[str, Any]:
    return {"edges": [list(edge) for edge in edges], "root": root, "target": target, "neg_target": negative}
