"""Shortest paths in directed graphs. Nodes are numbered from 0, edges are (from, to)."""

import random
from collections.abc import Iterable, Sequence

Edge = tuple[int, int]


def neighbours(edges: Iterable[Edge], num_nodes: int) -> tuple[list[list[int]], list[list[int]]]:
    """Return the successors and the predecessors of each node, in the order of `edges`."""
    successors: list[list[int]] = [[] for _ in range(num_nodes)]
    predecessors: list[list[int]] = [[] for _ in range(num_nodes)]
    for source, end in edges:
        successors[source].append(end)
        predecessors[end].append(source)
    return successors, predecessors


def distances(successors: Sequence[Sequence[int]], start: int) -> dict[int, int]:
    """Return the number of edges from `start` to each node that can be reached, in the order of their distance."""
    found = {start: 0}
    frontier = [start]
    for node in frontier:  # grows while it is read: a queue
        for following in successors[node]:
            if following not in found:
                found[following] = found[node] + 1
                frontier.append(following)
    return found


def bridges(edges: Sequence[Edge], num_nodes: int, start: int, goal: int) -> list[int]:
    """Return the indices of the edges without which no path leads from `start` to `goal`."""
    found = []
    for index in range(len(edges)):
        successors, _ = neighbours([*edges[:index], *edges[index + 1 :]], num_nodes)
        if goal not in distances(successors, start):
            found.append(index)
    return found


def count_shortest_paths(predecessors: Sequence[Sequence[int]], distance: dict[int, int]) -> dict[int, int]:
    """Return the number of shortest paths to each node that can be reached.

    Args:
        distance: the result of `distances` for the start of the paths.
    """
    counts: dict[int, int] = {}
    for node, steps in distance.items():
        counts[node] = sum(counts[one] for one in _before(predecessors, distance, node)) if steps else 1
    return counts


def draw_shortest_path(
    predecessors: Sequence[Sequence[int]], distance: dict[int, int], goal: int, rng: random.Random
) -> list[int]:
    """Draw one of the shortest paths to `goal`, each with the same chance. Return its nodes, both ends included.

    Args:
        distance: the result of `distances` for the start of the path.
    """
    counts = count_shortest_paths(predecessors, distance)
    path = [goal]
    while distance[path[-1]]:
        before = _before(predecessors, distance, path[-1])
        path += rng.choices(before, [counts[node] for node in before])
    return path[::-1]


def _before(predecessors: Sequence[Sequence[int]], distance: dict[int, int], node: int) -> list[int]:
    """Return the nodes that come before `node` on a shortest path."""
    return [one for one in predecessors[node] if distance.get(one) == distance[node] - 1]
