"""Questions of several turns, and rows in TRL's conversational form."""

import copy
import json
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neuralese.data import DataError, load_problems, read_problems, write_problems
from neuralese.data.conversation import Conversation, as_question

USER = {"role": "user", "content": "17 + 5 ="}
TURNS = [USER, {"role": "assistant", "content": "22"}, {"role": "user", "content": "times 3?"}]
SYSTEM = {"role": "system", "content": "Be brief."}
SOLVED = {"role": "assistant", "content": "17 + 5 = 22\n22 * 3 = 66\n### 66"}


def written(folder, *rows):
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_question_may_have_several_turns(tmp_path):
    row = {"question": TURNS, "steps": [], "answer": "66", "level": 3}
    (problem,) = load_problems(path=written(tmp_path, row))
    assert isinstance(problem.question, Conversation) and problem.question.messages == TURNS
    assert problem.to_dict() == row
    write_problems(tmp_path / "again.jsonl", [problem])
    assert read_problems(tmp_path / "again.jsonl") == [problem]


def test_one_user_turn_is_a_plain_question(tmp_path):
    (problem,) = load_problems(path=written(tmp_path, {"question": [USER], "steps": [], "answer": "22"}))
    assert problem.question == USER["content"] and type(problem.question) is str


def test_conversations_are_equal_where_all_turns_are():
    one, same = as_question(TURNS, "here"), as_question(list(TURNS), "here")
    assert one == same and hash(one) == hash(same) and one != as_question([SYSTEM, *TURNS], "here")
    for copied in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert type(copied) is Conversation and copied.messages == TURNS


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "has the turns []"),
        (TURNS[:2], "must end with a user's"),
        ([USER, SYSTEM, USER], "a system turn may only be the first"),
        ([{"role": "usr", "content": "?"}], "Did you mean 'user'?"),
        ([{"role": "user", "content": " "}], "message 0 is {'role': 'user', 'content': ' '}"),
        ([{"role": "user", "content": [{"type": "text", "text": "?"}]}], "a text that is not empty"),
        (["17 + 5 ="], "message 0 is '17 + 5 ='"),
    ],
)
def test_other_questions_are_refused(tmp_path, messages, said):
    with pytest.raises(DataError) as error:
        load_problems(path=written(tmp_path, {"question": messages, "steps": [], "answer": "22"}))
    assert said in str(error.value) and "line 1" in str(error.value)


@pytest.mark.parametrize(
    "columns",
    [{"prompt": [SYSTEM, *TURNS], "completion": [SOLVED]}, {"messages": [SYSTEM, *TURNS, SOLVED]}],
    ids=["prompt and completion", "messages"],
)
def test_conversational_columns_of_trl(tmp_path, columns):
    path = written(tmp_path, {**columns, "level": 3})
    (problem,) = load_problems(path=path)
    assert problem.question.messages == [SYSTEM, *TURNS]
    assert problem.steps == ("17 + 5 = 22", "22 * 3 = 66") and problem.answer == "66"
    assert problem.extra == {"level": 3}
    assert load_problems(path=path, step_splitter="line") == [problem]


def test_conversations_in_parquet(tmp_path):
    rows = [{"messages": [USER, SOLVED], "level": 3}, {"messages": [*TURNS, SOLVED], "level": 4}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data.parquet")
    assert load_problems(path=tmp_path / "data.parquet") == load_problems(path=written(tmp_path, *rows))


def test_prompts_with_an_answer_in_a_column(tmp_path):
    path = written(tmp_path, {"prompt": TURNS, "solution": "66"})
    columns = {"question": "prompt", "steps": None, "answer": "solution"}
    (problem,) = load_problems(path=path, columns=columns)
    assert (problem.question.messages, problem.steps, problem.answer) == (TURNS, (), "66")


def test_steps_and_answer_of_an_assistant_in_other_formats(tmp_path):
    prose = "17 and 5 are 22. Three times that is 66. The answer is 66."
    path = written(tmp_path, {"messages": [USER, {"role": "assistant", "content": prose}]})
    (problem,) = load_problems(path=path, step_splitter="sentence", answer_format="sentence")
    assert (problem.question, problem.answer) == ("17 + 5 =", "66")
    assert problem.steps == ("17 and 5 are 22.", "Three times that is 66.")
    path = written(tmp_path, {"messages": [USER, {"role": "assistant", "content": "22\nso \\boxed{66}."}]})
    (problem,) = load_problems(path=path, answer_format="boxed")
    assert (problem.steps, problem.answer) == (("22", "so"), "66")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": [USER, {"role": "assistant", "content": "It is 22"}]}, "announces no answer as '### ...'"),
        ({"messages": [USER, {"role": "assistant", "content": "### 22\nBye"}]}, "lines follow the answer"),
        ({"messages": [USER]}, "must be the assistant's"),
        ({"messages": []}, "must be the assistant's"),
        ({"prompt": [USER], "completion": [SOLVED, SOLVED]}, "completion has 2 messages"),
        ({"messages": [SOLVED]}, "has the turns []"),
    ],
)
def test_conversations_without_a_solution_are_refused(tmp_path, row, said):
    with pytest.raises(DataError) as error:
        load_problems(path=written(tmp_path, row))
    assert said in str(error.value) and "line 1" in str(error.value)


def test_a_question_column_comes_first(tmp_path):
    row = {"question": "1 =", "steps": [], "answer": "1", "messages": [USER]}
    (problem,) = load_problems(path=written(tmp_path, row))
    assert problem.question == "1 =" and problem.extra == {"messages": [USER]}
