"""Chain arithmetic: values recomputed in another way, splits that cannot overlap, and limits that are reported."""

import time
from collections import Counter

import pytest

from neuralese.data import ChainTask, DataError, generate, split_of


def _running_values(question: str, modulus: int) -> list[int]:
    """The reference: signed arithmetic without any modulo until the end of each prefix."""
    *words, equals = question.split(" ")
    assert equals == "="
    expression, values = words[0], []
    for operator, operand in zip(words[1::2], words[2::2], strict=True):
        expression = f"({expression}{operator}{operand})"
        values.append(eval(expression) % modulus)
    return values


def test_pinned_problems():
    first = generate(ChainTask(), 3, "train", 0)[0]
    assert first.question == "27 - 2 * 7 + 2 * 9 - 5 ="
    assert first.steps == ("25", "20", "22", "12", "7")  # 25; 175 = 5*31 + 20; 22; 198 = 6*31 + 12; 7
    assert first.answer == "7"
    assert generate(ChainTask(), 3, "eval", 0)[0].question == "10 * 1 + 2 * 7 + 6 * 4 ="


def vocabulary(task):
    return {*map(str, range(max(task.modulus, task.max_operand + 1))), "+", "-", "*", "="}


@pytest.mark.parametrize("task", [ChainTask(), ChainTask(11, 3), ChainTask(7, 4, 0, 20), ChainTask(2, 1, 3, 3)])
def test_steps_are_the_running_values(task):
    for problem in generate(task, 4, "train", 5) if task.space < 10 else generate(task, 500, "train", 5):
        words = problem.question.split(" ")
        values = _running_values(problem.question, task.modulus)
        assert problem.steps == tuple(map(str, values))
        assert len(values) == task.num_operations
        assert problem.answer == problem.steps[-1]
        assert 0 <= int(words[0]) < task.modulus
        assert all(task.min_operand <= int(word) <= task.max_operand for word in words[2:-1:2])
        assert set(words) | set(problem.steps) <= vocabulary(task)


def test_steps_may_be_equations():
    values, equations = (
        generate(ChainTask(7, 3), 200, "train", 5),
        generate(ChainTask(7, 3, equations=True), 200, "train", 5),
    )
    for value, equation in zip(values, equations, strict=True):
        assert (value.question, value.answer) == (equation.question, equation.answer)
        before = equation.question.split(" ")[0]
        for result, step in zip(value.steps, equation.steps, strict=True):
            left, right = step.split(" = ")
            assert left.split(" ")[0] == before and right == result and eval(left) % 7 == int(result)
            before = result


def test_precedence_is_left_to_right():
    product_after_sum = [p for p in generate(ChainTask(num_operations=2), 500, "train", 0) if " + " in p.question]
    words = next(p for p in product_after_sum if p.question.split(" ")[3] == "*")
    start, _, first, _, second, _ = words.question.split(" ")
    assert int(words.answer) == (int(start) + int(first)) * int(second) % 31


def test_the_draws_are_uniform_over_what_a_task_allows():
    problems = generate(ChainTask(modulus=5), 20_000, "train", 3)
    operators = Counter(word for problem in problems for word in problem.question.split(" ")[1:-1:2])
    operands = Counter(word for problem in problems for word in problem.question.split(" ")[2:-1:2])
    starts = Counter(problem.question.split(" ")[0] for problem in problems)
    for counts, choices in ((operators, 3), (operands, 9), (starts, 5)):
        assert len(counts) == choices
        assert all(abs(count * choices / counts.total() - 1) < 0.05 for count in counts.values())


def test_splits_never_overlap_and_no_question_repeats():
    # 31 * 27 * 27 questions: small enough that random train and eval sets of these sizes would share thousands.
    task = ChainTask(num_operations=2)
    train, held_out = set(), set()
    for seed, size in ((0, 100), (0, 9_000), (1, 15_000), (2, 20_000)):
        questions = [problem.question for problem in generate(task, size, "train", seed)]
        assert len(set(questions)) == size
        train.update(questions)
    for seed, size in ((0, 50), (1, 1_000), (7, 2_000)):
        questions = [problem.question for problem in generate(task, size, "eval", seed)]
        assert len(set(questions)) == size
        held_out.update(questions)
    assert not train & held_out
    assert all(split_of(question) == "train" for question in train)
    assert all(split_of(question) == "eval" for question in held_out)


def test_the_eval_split_is_a_tenth():
    problems = [p for split in ("train", "eval") for p in generate(ChainTask(), 5_000, split, 0)]
    assert Counter(split_of(p.question) for p in problems) == {"train": 5_000, "eval": 5_000}
    questions = [f"{a} + {b} =" for a in range(200) for b in range(200)]
    assert abs(sum(split_of(question) == "eval" for question in questions) / len(questions) - 0.1) < 0.01


def test_the_same_arguments_give_the_same_problems():
    for task in (ChainTask(), ChainTask(11, 2)):
        assert generate(task, 200, "train", 4) == generate(task, 200, "train", 4)
        assert generate(task, 200, "train", 4) != generate(task, 200, "train", 5)


def test_a_split_can_be_emptied_and_no_more():
    task = ChainTask(modulus=3, num_operations=2, max_operand=2)  # 3 * 6 * 6 = 108 questions
    sizes = {}
    for split in ("train", "eval"):
        with pytest.raises(DataError, match=f"the {split} split of ChainTask.* holds (\\d+) different") as info:
            generate(task, 108, split, 0)
        sizes[split] = int(str(info.value).split(" holds ")[1].split(" ")[0])
        assert len({p.question for p in generate(task, sizes[split], split, 0)}) == sizes[split]
        with pytest.raises(DataError, match="size is"):
            generate(task, sizes[split] + 1, split, 0)
    assert sum(sizes.values()) == 108
    assert 0 < sizes["eval"] < 30


@pytest.mark.parametrize("size", [10**8, 10**18])
@pytest.mark.parametrize("task", [ChainTask(), ChainTask(num_operations=2), ChainTask(num_operations=1)])
def test_an_impossible_size_fails_at_once(task, size):
    start = time.perf_counter()
    with pytest.raises(DataError, match=f"size is {size}"):
        generate(task, size, "eval", 0)
    assert time.perf_counter() - start < 1


HARDER = [ChainTask(97, 10, 1, 96), ChainTask(997, 8, 1, 99), ChainTask(997, 10, 2, 996)]


@pytest.mark.parametrize("task", [ChainTask(), *HARDER])
def test_sixty_thousand_problems_are_quick(task):
    start = time.process_time()
    assert len({problem.question for problem in generate(task, 60_000, "train", 0)}) == 60_000
    assert time.process_time() - start < 5


@pytest.mark.parametrize("task", HARDER)
def test_harder_tasks_have_one_token_a_word_and_spread_answers(task):
    train, held_out = generate(task, 20_000, "train", 0), generate(task, 500, "eval", 0)
    for problem in held_out:
        assert problem.steps == tuple(map(str, _running_values(problem.question, task.modulus)))
    words = {word for p in train for text in (p.question, *p.steps) for word in text.split(" ")}
    known = vocabulary(task)
    assert words <= known and len(known - words) <= 1  # 1 may be left out: below min_operand, it is only a value
    assert {word for p in held_out for text in (p.question, *p.steps) for word in text.split(" ")} <= words
    # Modulo a prime no value swallows the others; one in modulus is the share by chance.
    assert max(Counter(problem.answer for problem in train).values()) / len(train) < 4 / task.modulus


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"modulus": 1}, "modulus is 1"),
        ({"modulus": "31"}, "modulus is '31'"),
        ({"num_operations": 0}, "num_operations is 0"),
        ({"num_operations": True}, "num_operations is True"),
        ({"min_operand": -1}, "min_operand is -1"),
        ({"equations": "yes"}, "equations='yes' must be true or false"),
        ({"min_operand": 5, "max_operand": 4}, "max_operand is 4. It must be an integer of at least 5"),
    ],
)
def test_settings_are_checked(settings, said):
    with pytest.raises(DataError, match=said):
        ChainTask(**settings)


@pytest.mark.parametrize(
    ("size", "split", "seed", "said"),
    [
        (0, "train", 0, "size is 0"),
        (2.0, "train", 0, "size is 2.0"),
        (2, "evel", 0, "split is 'evel'. Did you mean 'eval'"),
        (2, "train", "0", "seed is '0'"),
    ],
)
def test_arguments_are_checked(size, split, seed, said):
    with pytest.raises(DataError, match=said):
        generate(ChainTask(), size, split, seed)
