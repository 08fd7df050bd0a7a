"""Generated tasks by name: what holds for all of them, and what each error says."""

import pytest

from neuralese.data import (
    TASKS,
    DataError,
    generate_task,
    read_problems,
    split_of,
    write_problems,
)

OPTIONS = {
    "chain": {"modulus": 7, "num_operations": 3},
    "prosqa": {"form": "symbolic", "num_nodes": 12, "min_steps": 2, "max_steps": 4},
    "graph_path": {"num_nodes": 8, "num_edges": 11, "path_length": 3},
}
# Few enough questions to run out of.
TINY = {
    "chain": {"modulus": 3, "num_operations": 1},
    "prosqa": {"form": "symbolic", "num_nodes": 4, "min_steps": 1},
    "graph_path": {"num_nodes": 3, "num_edges": 2, "path_length": 2, "min_paths": 1},
}
every_task = pytest.mark.parametrize("name", TASKS)


def test_every_task_is_tested_here():
    assert set(TASKS) == set(OPTIONS) == set(TINY) == {"chain", "prosqa", "graph_path"}


@every_task
def test_options_are_those_of_the_dataclass_and_may_be_left_out(name):
    assert generate_task(name, {}, 3, "train", 0) != generate_task(name, OPTIONS[name], 3, "train", 0)
    assert TASKS[name](**OPTIONS[name]) != TASKS[name]()


@every_task
def test_the_same_arguments_give_the_same_problems(name):
    first = generate_task(name, OPTIONS[name], 50, "train", 3)
    assert first == generate_task(name, OPTIONS[name], 50, "train", 3)
    assert first != generate_task(name, OPTIONS[name], 50, "train", 4)
    assert len({problem.question for problem in first}) == 50


@every_task
def test_no_question_is_in_both_splits(name):
    questions = {
        split: {p.question for seed in (0, 1) for p in generate_task(name, OPTIONS[name], 300, split, seed)}
        for split in ("train", "eval")
    }
    assert all(split_of(question) == split for split, asked in questions.items() for question in asked)
    assert not questions["train"] & questions["eval"]


@every_task
def test_words_are_separated_by_single_spaces_and_steps_are_single_words(name):
    for problem in generate_task(name, OPTIONS[name], 100, "train", 0):
        for text in (problem.question, problem.answer):
            assert text == " ".join(text.split())
        assert all(len(step.split()) == 1 for step in problem.steps)


@every_task
def test_problems_are_written_and_read_again_as_they_were(name, tmp_path):
    problems = generate_task(name, {}, 5, "eval", 0)
    write_problems(tmp_path / "p.jsonl", problems)
    assert read_problems(tmp_path / "p.jsonl") == problems


@every_task
def test_more_problems_than_there_are_is_an_error(name):
    with pytest.raises(
        DataError, match=r"size is 5000, but the eval split of \w+Task\(.* holds (about )?\d+ different"
    ):
        generate_task(name, TINY[name], 5_000, "eval", 0)


def test_an_exhausted_split_holds_what_was_counted():
    # A chain of 3 nodes and 2 edges: 3! ways to number the nodes, 2 orders of the edges.
    sizes = {}
    for split in ("train", "eval"):
        with pytest.raises(DataError, match="holds about") as info:
            generate_task("graph_path", TINY["graph_path"], 100, split, 0)
        sizes[split] = int(str(info.value).split(" holds about ")[1].split(" ")[0])
    assert sum(sizes.values()) == 12


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("prosqua", {}, r"There is no task 'prosqua'. Did you mean 'prosqa'\? The tasks are chain, prosqa, graph_path"),
        ("chain", {"modulos": 7}, r"Task 'chain' has no option 'modulos'. Did you mean 'modulus'\? Its options are"),
        ("chain", {"modulus": 1}, "modulus is 1"),
        ("prosqa", {"form": "txt"}, "form is 'txt'. Did you mean 'text'"),
        ("graph_path", {"path_length": None}, "path_length is None"),
        ("graph_path", {1: 2}, "has no option 1"),
    ],
)
def test_names_and_options_are_checked(name, options, said):
    with pytest.raises(DataError, match=said):
        generate_task(name, options, 1, "train", 0)


@every_task
def test_size_split_and_seed_are_checked(name):
    for size, split, seed, said in (
        (0, "train", 0, "size is 0"),
        (1, "test", 0, "split is 'test'"),
        (1, "eval", 0.5, "seed is 0.5"),
    ):
        with pytest.raises(DataError, match=said):
            generate_task(name, OPTIONS[name], size, split, seed)
