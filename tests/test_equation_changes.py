"""Problems with equations as steps, one number changed: solved anew by a computation that reads the question."""

import json
import random
import re
from fractions import Fraction

import pytest
from conftest import ROOT

from neuralese.data.conversation import Conversation
from neuralese.data.equation_changes import changes
from neuralese.data.equations import equation_holds
from neuralese.data.gsm8k import parse_gsm8k
from neuralese.data.problem import Problem
from neuralese.data.tasks import change_one

GSM8K = ROOT.parent / "shared" / "data" / "gsm8k_train.jsonl"


def shop(rng):
    """A problem in English, and the same in a form that is solved without its steps."""
    total, told, steps = rng.randint(30, 60), [], []
    told.append(f"Mia has {total} shells.")
    for _ in range(3):
        number = rng.randint(3, 9)
        text, sign = rng.choice([(f"She buys {number} more.", "+"), (f"She gives {number} away.", "-")])
        result = total + number if sign == "+" else total - number
        told.append(text)
        steps.append(f"{total}{sign}{number}={result}")
        total = result
    return Problem(" ".join(told) + " How many shells does Mia have?", tuple(steps), str(total))


def solved(question):
    start, *others = re.findall(r"(has|buys|gives) (\d+)", question)
    return int(start[1]) + sum(int(number) if verb == "buys" else -int(number) for verb, number in others)


def numerals(text):
    return re.findall(r"\d+(?:\.\d+)?", text)


def test_a_variant_has_the_answer_of_its_question():
    rng, found = random.Random(0), 0
    for _ in range(100):
        problem = shop(rng)
        for other in changes(problem, rng):
            found += 1
            assert solved(problem.question) == int(problem.answer) != int(other.answer) == solved(other.question)
            assert all(map(equation_holds, other.steps)) and other.steps[-1].endswith(f"={other.answer}")
            pairs = zip(problem.question.split(), other.question.split(), strict=True)
            assert sum(one != two for one, two in pairs) == 1
    assert found > 1500


def one_change(question, steps, answer, **columns):
    return list(changes(Problem(question, tuple(steps), answer, columns), random.Random(0)))


def test_every_equation_after_the_changed_number_follows():
    found = one_change("Tom has 14 pens and buys 3 boxes of 8.", ["<<3*8=24>>", "<<14+24=38>>"], "38")
    by_place = {tuple(numerals(one.question)): one for one in found}
    assert {places[1] == "3" for places in by_place} == {True, False}
    for (first, second, third), one in by_place.items():
        packed = int(second) * int(third)
        assert one.steps == (f"<<{second}*{third}={packed}>>", f"<<{first}+{packed}={int(first) + packed}>>")
        assert one.answer == str(int(first) + packed) != "38"


@pytest.mark.parametrize(
    ("question", "steps", "answer", "changed"),
    [
        ("5 of 20 eggs, for 5 days", ["20-5=15"], "15", {"20"}),  # which 5?
        ("20 eggs less 5, then 15 more", ["20-5=15", "15+15=30"], "30", set()),  # which 15?
        ("12 eggs less 5, then 7 more", ["12-5=7", "7+7=14"], "14", set()),
        ("a dozen eggs for 12 people", ["12/12=1", "1+4=5"], "5", set()),
        ("2 birds with 14 eggs", ["14*2=28"], "28", {"14"}),  # 2 may be meant by birds, or by anything else
        ("7 eggs a day in a week", ["7*7=49"], "49", set()),
        ("7 eggs a day for 9 days", ["7*9=63"], "63", {"7", "9"}),
        ("half of 18 eggs", ["18/2=9"], "9", {"18"}),
        ("3/4 of 24 eggs", ["24*3/4=18"], "18", {"24"}),
        ("50% of 26", ["26*0.5=13"], "13", {"26"}),
        ("9.5 pounds and 13", ["9.5+13=22.5"], "22.5", {"13"}),
        ("B2 has 13 eggs, 1,300 more", ["13+1300=1313"], "1313", {"13"}),
        ("13 eggs, 4 more", ["13+4=17"], "18", set()),  # the steps do not lead to the answer
        ("13 eggs, 4 more", ["13+4=16"], "16", set()),
        ("13 eggs, 4 more", ["17 eggs in all"], "17", set()),
        ("13 eggs, 4 more", [], "17", set()),
        ("13 eggs at 4 dollars", ["13*$4=$52"], "52", set()),
        ("13 eggs, 4 more", ["13+4=17"], "seventeen", set()),
        ("13 eggs in 13 days", ["13+4=17"], "17", set()),
        ("99 red eggs", ["13+4=17"], "17", set()),  # no step has the number
    ],
)
def test_only_a_number_that_the_steps_explain_is_changed(question, steps, answer, changed):
    before = numerals(question)
    found = one_change(question, steps, answer)
    places = {old for one in found for old, new in zip(before, numerals(one.question), strict=True) if old != new}
    assert places == changed


def test_nothing_odd_follows():
    # 18 halved stays whole, 9 - 5 stays at or above 0, and a divisor never becomes one that leaves a remainder.
    for one in one_change("18 eggs in 6 rows, 3 broke", ["18/6=3.0", "3.0*6=18", "18-3=15"], "15"):
        assert all("." not in step.rpartition("=")[2] for step in one.steps)
    for one in one_change("14 eggs less 9", ["14-9=5"], "5"):
        assert int(one.answer) >= 0
    assert one_change("14 eggs less 9", ["14-9=5"], "5")


def test_a_conversation_is_left_as_it_is():
    turns = [{"role": "user", "content": "13 eggs"}, {"role": "user", "content": "and 4?"}]
    problem = Problem(Conversation(turns), ("13+4=17",), "17")
    assert list(changes(problem, random.Random(0))) == []


def test_the_verifier_of_reasoning_gym_judges_a_variant_by_its_own_answer():
    entry = {"question": "13 eggs, 4 more", "answer": "17", "metadata": {"a": 1}}
    for one in one_change("13 eggs, 4 more", ["13+4=17"], "17", entry=entry, template=3):
        assert one.extra == {"entry": {**entry, "question": one.question, "answer": one.answer}, "template": 3}
    assert entry["answer"] == "17"


def test_the_same_seed_gives_the_same_variant_and_the_first_steps_can_be_asked_to_differ():
    problem = Problem("Tom has 14 pens and buys 3 boxes of 8.", ("3*8=24", "14+24=38"), "38")
    assert change_one(None, {}, problem, 5) == change_one(None, {}, problem, 5)
    first = {change_one(None, {}, problem, seed, within=1).question.split()[2] for seed in range(20)}
    assert first == {"14"}
    assert change_one(None, {}, Problem("How?", ("so",), "yes"), 0) is None


@pytest.mark.skipif(not GSM8K.is_file(), reason="needs the real data")
def test_most_problems_of_gsm8k_with_plain_equations_have_a_variant():
    problems = [parse_gsm8k(json.loads(line), "") for line in GSM8K.read_text().splitlines()[:1000]]
    found = [(problem, change_one(None, {}, problem, 0)) for problem in problems]
    pairs = [(problem, other) for problem, other in found if other is not None]
    assert len(pairs) > 400
    for problem, other in pairs:
        old, new = numerals(problem.question), numerals(other.question)
        assert sum(a != b for a, b in zip(old, new, strict=True)) == 1
        assert all(map(equation_holds, other.steps)) and len(other.steps) == len(problem.steps)
        assert Fraction(other.steps[-1].rpartition("=")[2].strip("> ")) == Fraction(other.answer)
        assert other.answer != problem.answer
