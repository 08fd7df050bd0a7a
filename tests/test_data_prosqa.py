"""ProsQA: steps and answers checked on the question itself, statistics beside the published set, no shortcuts."""

import json
import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from neuralese.data import DataError, ProsQATask, load_problems, read_problems
from neuralese.data import prosqa as prosqa_module
from neuralese.data.prosqa import CONCEPTS, PERSONS, generate

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "prosqa_valid.json"
needs_real = pytest.mark.skipif(not REAL.is_file(), reason="the real data file is not here")

SMALL = ProsQATask("symbolic", num_nodes=12, min_steps=2, max_steps=4, balanced=True)
TASKS = [ProsQATask(), ProsQATask(balanced=True), ProsQATask("symbolic"), SMALL, replace(SMALL, form="edges")]


def read_question(question):
    """The reference reader: edges, candidates and root as names, from the text alone."""
    if "[Q]" in question:
        graph, rest = question.split(" [Q] ")
        first, second, marker, root = rest.split(" ")
        assert marker == "[R]"
        pairs = (
            [edge.split(">") for edge in graph.split(" ")]
            if ">" in graph
            else [edge.split(" ") for edge in graph.split(" | ")]
        )
        return [tuple(pair) for pair in pairs], (first, second), root
    facts, asked = question.rsplit(". ", 1)
    root, first, second = re.fullmatch(r"Is (\w+) a (\w+) or (\w+)\?", asked).groups()
    edges = [re.fullmatch(r"(?:Every )?(\w+) is a (\w+)", fact).groups() for fact in facts.split(". ")]
    return edges, (first, second), root


def reach(edges, start):
    """The reference search: the nodes at each distance from `start`, until nothing new is found."""
    layers, seen = [{start}], {start}
    while layers[-1]:
        layers.append({end for source, end in edges if source in layers[-1]} - seen)
        seen |= layers[-1]
    return {node: steps for steps, layer in enumerate(layers) for node in layer}


def way_of(problem):
    """The nodes on the way that the steps write out, root first."""
    if "[Q]" in problem.question:
        return [problem.question.split(" ")[-1], *problem.steps]
    sentences = [re.fullmatch(r"(?:Every )?(\w+) is a (\w+)\.", step).groups() for step in problem.steps]
    assert all(before[1] == after[0] for before, after in pairwise(sentences))
    return [sentences[0][0], *(end for _, end in sentences)]


def names_of(problem):
    return problem.extra.get("idx_to_symbol") or [str(node) for node in range(100)]


def check(problem):
    edges, candidates, root = read_question(problem.question)
    names = names_of(problem)
    assert sorted(edges) == sorted((names[a], names[b]) for a, b in problem.extra["edges"])
    assert len(set(edges)) == len(edges)
    target, negative = names[problem.extra["target"]], names[problem.extra["neg_target"]]
    assert {target, negative} == set(candidates) and target != negative
    assert root == names[problem.extra["root"]]
    away = reach(edges, root)
    way = way_of(problem)
    assert all(edge in edges for edge in pairwise(way))
    assert way[0] == root and way[-1] == target
    assert away[target] == len(problem.steps) == len(way) - 1
    assert negative not in away
    assert not {target, negative} & {source for source, _ in edges}


@pytest.mark.parametrize("task", TASKS)
def test_steps_are_a_shortest_way_to_the_answer_and_the_other_candidate_cannot_be_reached(task):
    for problem in generate(task, 400, "train", 1):
        check(problem)
        assert task.min_steps <= len(problem.steps) <= task.max_steps
        answer = problem.answer
        if task.form != "text":
            assert answer == problem.steps[-1] == str(problem.extra["target"])
        else:
            names = names_of(problem)
            assert answer == f"{names[problem.extra['root']]} is a {names[problem.extra['target']]}."


@needs_real
def test_the_published_set_passes_the_same_checks():
    for problem in read_problems(REAL):
        check(problem)


def test_the_text_form_names_parentless_nodes_like_persons():
    for problem in generate(ProsQATask(), 200, "train", 0):
        names, children = names_of(problem), {b for _, b in problem.extra["edges"]}
        assert len(set(names)) == len(names)
        assert all(name in (CONCEPTS if node in children else PERSONS) for node, name in enumerate(names))
        for every, subject, kind in re.findall(r"(Every )?(\w+) is a (\w+)\.", problem.question):
            assert kind in CONCEPTS and subject in (CONCEPTS if every else PERSONS)


def test_more_persons_than_names_are_never_drawn(monkeypatch):
    monkeypatch.setattr(prosqa_module, "PERSONS", PERSONS[:2])
    assert {sum(name in PERSONS for name in names_of(p)) for p in generate(ProsQATask(), 50, "train", 0)} == {2}


def test_the_symbolic_forms_have_one_word_a_node_and_an_edge():
    words = {word for p in generate(SMALL, 2_000, "train", 0) for w in (p.question, *p.steps) for word in w.split(" ")}
    assert words == {*map(str, range(12)), "|", "[Q]", "[R]"}
    edges = replace(SMALL, form="edges")
    words = {word for p in generate(edges, 2_000, "train", 0) for w in (p.question, *p.steps) for word in w.split(" ")}
    nodes = [str(node) for node in range(12)]
    assert words == {*nodes, *(f"{a}>{b}" for a in nodes for b in nodes if a != b), "[Q]", "[R]"}


@needs_real
def test_the_published_set_is_read_in_the_symbolic_form():
    """Named again by the numbers of its symbols, a problem is the published one: graph, question and way."""
    text = read_problems(REAL)
    symbolic = load_problems(path=REAL, step_splitter="prosqa_symbolic")
    assert len(symbolic) == len(text) == 300 and symbolic == load_problems(path=REAL, step_splitter="prosqa_symbolic")
    changed = 0
    for ours, real in zip(symbolic, text, strict=True):
        check(ours)
        (edges, _, root), (_, real_candidates, real_root) = map(read_question, (ours.question, real.question))
        name = {str(number): symbol for number, symbol in zip(way_of(ours), way_of(real), strict=True)}
        assert name[root] == real_root and name[ours.answer] == real.answer.rstrip(".").split(" ")[-1]
        assert len(edges) == len(real.extra["edges"]) and name[ours.answer] in real_candidates
        changed += ours.extra["root"] != real.extra["root"]
    assert changed > 200
    longest = max(int(node) for problem in symbolic for node in re.findall(r"\d+", problem.question))
    assert longest < ProsQATask("symbolic").num_nodes  # a tokenizer of generated problems has all its words


def test_rows_without_a_graph_are_not_read_in_the_symbolic_form(tmp_path):
    row = {"question": "Is A a b or c?", "steps": ["A is a b."], "answer": "A is a b."}
    graph = {"idx_to_symbol": ["A", "b", "c"], "edges": [[0, 1]], "root": 0, "neg_target": 2}
    path = tmp_path / "rows.json"
    for bad, said in (
        ({}, "columns .*'edges'.* of ProsQA's graph are missing"),
        (graph | {"idx_to_symbol": ["A", "x", "c"]}, "Each must end with a name"),
    ):
        path.write_text(json.dumps([row | bad]))
        with pytest.raises(DataError, match=said):
            load_problems(path=path, step_splitter="prosqa_symbolic")


def measures(problem):
    """Numbers whose distributions are compared with the published set."""
    row, count = problem.extra, len(problem.extra["idx_to_symbol"])
    edges, back = row["edges"], [(b, a) for a, b in row["edges"]]
    entering, leaving = Counter(b for _, b in edges), Counter(a for a, _ in edges)
    root, target, negative = row["root"], row["target"], row["neg_target"]
    away, ancestors = reach(edges, root), reach(back, negative)
    sources = [node for node in range(count) if not entering[node]]
    return {
        "nodes": count,
        "edges": len(edges),
        "steps": len(problem.steps),
        "persons": len(sources),
        "leaves": count - len(leaving),
        "root's children": leaving[root],
        "reached from the root": len(away),
        "reached leaves": sum(not leaving[node] for node in away),
        "in-degree of the answer": entering[target],
        "in-degree of the other": entering[negative],
        "ancestors of the answer": len(reach(back, target)),
        "ancestors of the other": len(ancestors),
        "depth of the other": min(ancestors[node] for node in sources if node in ancestors),
        "ancestors shared": len(reach(back, target).keys() & ancestors),
        "most parents": max(entering.values()),
        "most children": max(leaving.values()),
    }


def largest_gap(first, second):
    """The Kolmogorov-Smirnov distance of two samples."""
    values = sorted({*first, *second})
    return max(abs(sum(x <= v for x in first) / len(first) - sum(x <= v for x in second) / len(second)) for v in values)


@needs_real
def test_the_defaults_have_the_distributions_of_the_published_set():
    real = [measures(problem) for problem in read_problems(REAL)]
    ours = [measures(problem) for problem in generate(ProsQATask(), 3_000, "train", 0)]
    gaps = {key: largest_gap([row[key] for row in real], [row[key] for row in ours]) for key in real[0]}
    assert max(gaps.values()) < 0.09, gaps
    for key, tolerance in (("nodes", 0.3), ("edges", 0.8), ("steps", 0.1)):
        mean = [sum(row[key] for row in rows) / len(rows) for rows in (real, ours)]
        assert abs(mean[0] - mean[1]) < tolerance, (key, mean)


def guesses(problem):
    """1 for each shortcut that picks the answer, 0.5 where it cannot tell, 0 where it picks the other candidate."""
    edges, (first, second), _ = read_question(problem.question)
    names = names_of(problem)
    words = re.findall(r"\w+", problem.question)
    back = [(end, source) for source, end in edges]
    entering = Counter(end for _, end in edges)

    def features(name):
        ancestors = reach(back, name)
        return {
            "fewer parents": -entering[name],
            "deeper": min(steps for node, steps in ancestors.items() if not entering[node]),
            "more ancestors": len(ancestors),
            "mentioned first": -words.index(name),
            "mentioned last": len(words) - words[::-1].index(name) if words.count(name) > 1 else 0,
            "first of the two": name == first,
            "name": name,
            "no parent that is a source": -sum(not entering[source] for source, end in edges if end == name),
            "parents' parents": sum(entering[source] for source, end in edges if end == name) / entering[name],
        }

    answer = names[problem.extra["target"]]
    right, wrong = features(answer), features(second if answer == first else first)
    return {key: 0.5 if right[key] == wrong[key] else float(right[key] > wrong[key]) for key in right}


def accuracies(problems):
    rows = [guesses(problem) for problem in problems]
    return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}


@pytest.mark.parametrize("task", [ProsQATask(balanced=True), SMALL])
def test_balanced_problems_have_no_shortcut(task):
    rates = accuracies(generate(task, 3_000, "train", 0))
    assert all(abs(rate - 0.5) < 0.04 for rate in rates.values()), rates  # 0.04: more than four standard errors


@needs_real
def test_the_defaults_have_no_shortcut_that_the_published_set_has_not():
    real, ours = accuracies(read_problems(REAL)), accuracies(generate(ProsQATask(), 3_000, "train", 0))
    for key, rate in ours.items():
        assert abs(rate - real[key]) < 0.1, (key, rate, real[key])  # 0.03 is a standard error of the published set
    for key in ("first of the two", "name"):
        assert abs(ours[key] - 0.5) < 0.04, (key, ours[key])


def test_numbers_and_places_tell_nothing_about_a_node():
    problems = generate(ProsQATask("symbolic"), 4_000, "train", 0)
    for column in ("root", "target", "neg_target"):
        counts = Counter(problem.extra[column] for problem in problems)
        assert len(counts) == 28
        assert max(abs(count / 4_000 - 1 / 28) for count in counts.values()) < 0.013
    places = [
        place / (len(problem.extra["edges"]) - 1)
        for problem in problems
        for place, edge in enumerate(problem.extra["edges"])
        if problem.extra["root"] in edge
    ]
    assert abs(sum(places) / len(places) - 0.5) < 0.02


def test_a_pinned_problem():
    problem = generate(SMALL, 1, "train", 0)[0]
    assert problem.question == (
        "11 6 | 1 11 | 9 0 | 3 6 | 4 9 | 7 2 | 8 7 | 5 2 | 8 1 | 8 11 | 1 6 | 1 3 | 5 7 | 5 4 | 1 2 [Q] 0 6 [R] 5"
    )
    assert problem.steps == ("4", "9", "0")  # 5 4, 4 9, 9 0; 6 is reached from 11, 3 and 1 alone, they from 8
    assert problem.answer == "0"
    assert problem.extra["root"] == 5 and problem.extra["target"] == 0 and problem.extra["neg_target"] == 6


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"form": "symbol"}, "form is 'symbol'. Did you mean 'symbolic'"),
        ({"num_nodes": 3}, "num_nodes is 3. It must be an integer in 4..40"),
        ({"num_nodes": 41}, "num_nodes is 41"),
        ({"form": "symbolic", "num_nodes": 3}, "num_nodes is 3. It must be an integer of at least 4"),
        ({"mean_parents": 0}, "mean_parents is 0"),
        ({"mean_parents": "1.5"}, "mean_parents is '1.5'"),
        ({"min_steps": 0}, "min_steps is 0"),
        ({"min_steps": 4, "max_steps": 3}, "max_steps is 3. It must be an integer of at least 4"),
        ({"balanced": 1}, "balanced is 1"),
    ],
)
def test_settings_are_checked(settings, said):
    with pytest.raises(DataError, match=said):
        ProsQATask(**settings)


def test_settings_that_allow_no_graph_are_an_error():
    with pytest.raises(DataError, match="gave no problem in 10000 graphs. Raise num_nodes"):
        generate(ProsQATask("symbolic", num_nodes=5, min_steps=5), 1, "train", 0)
