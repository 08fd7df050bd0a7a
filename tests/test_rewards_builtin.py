"""Answers in completions, and the built-in rewards, on values worked by hand."""

import random
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from neuralese.rewards import (
    BUILTIN,
    Patience,
    RewardError,
    answer_format,
    check_reward,
    checked,
    completion_text,
    exact_match,
    extract_answer,
    latent_cost,
    length_cost,
    load_reward,
    math_verify,
    normalise_answer,
    numeric_match,
    parse_number,
    valid_path,
)


def _chat(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("22 4 27 ### 27", "27"),
        ("### 1 ### 2", "2"),
        ("a\n###  Tom is \n a lempus. ", "Tom is a lempus."),
        (" no  marker ", "no marker"),
        ("#### 72", "72"),
        ("steps ###", ""),
        ("## 3", "## 3"),
    ],
)
def test_extract_answer(text, answer):
    assert extract_answer(text) == answer


def test_normalise_answer_keeps_case_and_joins_white_space():
    assert normalise_answer("\t A  b\n") == "A b"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("72", 72),
        ("$1,450,000.", 1450000),
        ("12.5%", 12.5),
        (".5", 0.5),
        ("-3", -3),
        ("-$3", -3),
        ("\N{MINUS SIGN}3", -3),
        ("1e-3", 0.001),
        ("3/4", 0.75),
        ("-3/4", -0.75),
        ("75%", 75),
        ("2 1/2", 2.5),
        ("1.2.3", None),
        ("1_000", None),
        ("9-4", None),
        ("first 5, then 6 apples", None),
        ("1/0", None),
        ("5 7/2", None),
        ("2 0/0", None),
        ("2 1/0", None),
        ("1e400", None),  # too large for a float
        ("1e99999999999999999999", None),
        ("none", None),
        ("", None),
    ],
)
def test_parse_number(text, number):
    assert parse_number(text) == number


def test_completion_text_of_a_string_and_of_messages():
    assert completion_text("a") == "a"
    assert completion_text(_chat("a")) == "a"
    messages = [*_chat("a"), {"role": "tool", "content": "### 9"}, {"role": "assistant", "content": None}, *_chat("b")]
    assert completion_text(messages) == "a\n\nb"
    parts = [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]
    assert completion_text([{"role": "assistant", "content": parts}]) == "ab"


@pytest.mark.parametrize("bad", [5, None, ["text"], [{"role": "assistant", "content": 5}]])
def test_completion_text_of_anything_else_is_an_error(bad):
    with pytest.raises(TypeError, match="a string"):
        completion_text(bad)


@pytest.mark.parametrize("wrap", [str, _chat])
def test_exact_match(wrap):
    texts = ["5 27 ### 27", "### 26", "27", "x 27", "###  Tom is\na lempus.", "### tom is a lempus."]
    answers = ["27", "27", "27", "27", "Tom is  a lempus. ", "Tom is a lempus."]
    rewards = exact_match(prompts=[""] * 6, completions=[wrap(text) for text in texts], answer=answers, level=[1] * 6)
    assert rewards == [1.0, 0.0, 1.0, 0.0, 1.0, 0.0]


@pytest.mark.parametrize("wrap", [str, _chat])
def test_numeric_match(wrap):
    texts = ["### $1,250.00.", "### 1250", "5 ### six", "72 apples", "### 0.3333333", "### 0.33334", "7 ### 8", "### 7"]
    answers = ["1250", "1,250", "6", "72", "1/3", "1/3", "7", "seven"]
    rewards = numeric_match(prompts=[""] * 8, completions=[wrap(text) for text in texts], answer=answers)
    assert rewards == [1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, None]


def test_numeric_match_tells_huge_and_tiny_numbers_apart():
    pairs = [
        ("9" * 400, "9" * 400, 1.0), ("9" * 400, "8" * 400, 0.0), ("9007199254740993", "9007199254740992", 0.0),
        ("1e-9", "0", 0.0), ("1e-9", "2e-9", 0.0), ("1e-9", "1.0000001e-9", 1.0), ("0", "-0", 1.0),
        ("1e400", "1e400", 1.0), ("5", "1e99999999999999999999", 0.0), ("1e99999999999999999999", "5", None),
    ]  # fmt: skip
    answers, texts, expected = zip(*pairs, strict=True)
    assert numeric_match([""] * len(pairs), texts, answer=answers) == list(expected)


def test_whatever_a_model_writes_is_read_or_not_but_never_an_error_and_equals_itself():
    """Of 20,000 heaps of digits, signs and LaTeX; "2 0/0" is one that once was an error."""
    draw = random.Random(0)
    parts = [
        *"0123456789000//.,%-+ e=()$^*_",
        "\\frac{0}{0}",
        "\\frac",
        "{1}",
        "\\boxed{",
        "}",
        "1e999999",
        "¾",
        " million",
        " or ",
    ]
    texts = ["".join(draw.choices(parts, k=draw.randrange(12))) for _ in range(20_000)]
    rewards = numeric_match(texts, texts, answer=texts)
    assert set(rewards) == {1.0, None} and rewards.count(1.0) > 3_000


@pytest.mark.parametrize("part", ["*", "`", "_a", "\\boxed{", "1/", "(1,2,", "1 ", "{1", "\\text{", "minus ", "$"])
def test_long_texts_end_the_reader_not_the_training(part):
    """A pattern that took more than linear time would not come back from these."""
    assert parse_number(part * 20_000 + " ; 7") in (None, 7)


@pytest.mark.parametrize("wrap", [str, _chat])
def test_answer_format(wrap):
    texts = ["1 ### 2", "1 ###\n2\n", "1 2", "### 1 ### 2", "1 ###", "1 ### \n ", "### 1\n2", "#### 2", "######2"]
    rewards = answer_format(prompts=[""] * 9, completions=[wrap(text) for text in texts], answer=["2"] * 9)
    assert rewards == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("wrap", [str, _chat])
@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("2 7 ### 3 7 2 9", 1.0),
        ("### 3 5 9", 1.0),
        ("3 5 9", 1.0),
        ("### 3  5\n9 ", 1.0),
        ("### 3 9", 0.0),  # no such edge
        ("### 9 5 3", 0.0),  # against the edges
        ("### 3 5", 0.0),  # not at the goal
        ("### 5 9", 0.0),  # not from the start
        ("### 3 5 9 3 5 9", 0.0),  # twice at a node
        ("### 3 5 9 .", 0.0),
        ("### 03 5 9", 0.0),
        ("###", 0.0),
        ("### 3 5 9 ### 4", 0.0),
    ],
)
def test_valid_path(wrap, text, reward):
    edges = [[3, 7], [7, 2], [2, 9], [3, 5], [5, 9], [9, 3]]
    assert valid_path([""], [wrap(text)], edges=[edges], start=[3], goal=[9], answer=["3 5 9"]) == [reward]


def test_valid_path_judges_each_completion_by_its_own_graph():
    graphs = {"edges": [[("a", "b")], [[1, 2], [2, 3]], [[1, 2]]], "start": ["a", 1, 1], "goal": ["b", 3, 1]}
    assert valid_path([""] * 3, ["### a b", "### 1 2 3", "### 1"], **graphs) == [1.0, 1.0, 1.0]
    assert valid_path([""] * 3, ["### 1 2 3", "### a b", "### 1 2"], **graphs) == [0.0, 0.0, 0.0]


def test_latent_cost():
    assert latent_cost(prompts=["", ""], completions=["a", "b"], num_latents=[4, 0]) == [-4.0, 0.0]
    with pytest.raises(RewardError, match="no column 'num_latents'"):
        latent_cost(prompts=[""], completions=["a"], answer=["a"])


def test_length_cost():
    assert length_cost(prompts=["", ""], completions=["a", ""], completion_ids=[[5, 6, 1], []]) == [-3.0, 0.0]
    with pytest.raises(RewardError, match="no 'completion_ids'.*evaluate.scorer"):
        length_cost(prompts=[""], completions=["a"], answer=["a"])
    assert check_reward("length_cost", ["one two", ""], {}).rewards == [-2.0, 0.0]


@pytest.mark.parametrize("wrap", [str, _chat])
@pytest.mark.parametrize(
    ("answer", "right", "wrong"),
    [
        ("1/2", ["0.5", "$\\frac{1}{2}$", "\\frac12", "2/4", "so \\boxed{\\frac{1}{2}}"], ["2", "1", "", "none"]),
        ("\\frac{3}{4}", ["0.75", "3/4"], ["3", "4"]),
        ("2\\sqrt{3}", ["$\\sqrt{12}$", "\\sqrt{12}"], ["2", "3"]),
        ("x^2+2x+1", ["(x+1)^2", "$(1+x)^2$"], ["1", "x^2+1"]),
        ("1,250", ["$1250$", "1250", "\\$1,250"], ["1", "250"]),
        ("(1,2)", ["(1, 2)", "$(1,2)$"], ["(2,1)", "2"]),
        ("5", ["x = 5", "5 apples", "$x=5$"], ["x = 6", "apples", "3 4 6"]),
        ("\\text{even}", ["\\text{even}"], ["\\text{odd}"]),
    ],
)
def test_math_verify(wrap, answer, right, wrong):
    pytest.importorskip("math_verify")
    texts = [f"first 7 ### {text}" for text in [*right, *wrong]]
    rewards = math_verify(prompts=texts, completions=[wrap(text) for text in texts], answer=[answer] * len(texts))
    assert rewards == [1.0] * len(right) + [0.0] * len(wrong)


def test_math_verify_judges_nothing_by_an_answer_that_it_cannot_read():
    pytest.importorskip("math_verify")
    assert math_verify([""] * 2, ["### 5", "### 5"], answer=["what is sought", "5"]) == [None, 1.0]


def test_math_verify_also_works_outside_the_main_thread():
    pytest.importorskip("math_verify")
    with ThreadPoolExecutor() as pool:
        rewards = pool.submit(math_verify, [""] * 2, ["0.5", "\\frac13"], answer=["1/2"] * 2).result()
    assert rewards == [1.0, 0.0]
    # No timeout ends the power of two huge numbers in another thread.
    with pytest.raises(RewardError, match="'math_verify' was given a timeout of 60 s.*Remove the timeout"):
        checked(math_verify, "math_verify", Patience(timeout=60))


def test_math_verify_gives_up_what_takes_too_long(monkeypatch):
    pytest.importorskip("math_verify")
    monkeypatch.setattr("neuralese.rewards.mathematics._SECONDS", 1)
    assert math_verify([""] * 2, ["### $9^{9^{9^9}}$", "### 5"], answer=["5"] * 2) == [0.0, 1.0]


def test_math_verify_cannot_read_what_its_parser_gives_up(monkeypatch):
    library = pytest.importorskip("math_verify")
    from math_verify.errors import TimeoutException

    def parse(text, parsing_timeout):
        if "9" in text:
            raise TimeoutException
        return [text]

    monkeypatch.setattr(library, "parse", parse)
    assert math_verify([""] * 2, ["### 9", "### 5"], answer=["5"] * 2) == [0.0, 1.0]


def test_math_verify_without_its_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    for use in (lambda: load_reward("math_verify"), lambda: math_verify([""], ["5"], answer=["5"])):
        with pytest.raises(RewardError, match=r"needs the library math-verify.*pip install 'neuralese\[math\]'"):
            use()


def test_columns_of_another_length_are_an_error():
    for reward in (exact_match, numeric_match):
        with pytest.raises(ValueError, match="zip"):
            reward([""] * 2, ["a", "b"], answer=["a"])
    with pytest.raises(ValueError, match="zip"):
        valid_path([""], ["a"], edges=[[]], start=[1], goal=[1, 2])


def test_every_built_in_is_registered_under_its_own_name():
    assert {name: reward.__name__ for name, reward in BUILTIN.items()} == {name: name for name in BUILTIN}
    assert set(BUILTIN) == {
        "exact_match", "numeric_match", "answer_format", "valid_path", "latent_cost", "length_cost", "math_verify",
        "reasoning_gym",
    }  # fmt: skip
