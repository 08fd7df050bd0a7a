"""What one process does for all: its result, its error, and an error that it did not foresee, on all of them.

With real processes: test_launches.py and test_judge_calls.py.
"""

from types import SimpleNamespace

import pytest

from neuralese.data.errors import UserError
from neuralese.pipeline.system import processes


@pytest.fixture
def sent(monkeypatch):
    """What the main process sends to others."""
    found = []
    monkeypatch.setattr(processes, "broadcast_object_list", lambda outcome: found.append(list(outcome)))
    return found


def failing(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize("error", [UserError("no such file"), OSError("no disk")])
def test_an_error_of_a_user_is_that_of_all(sent, error):
    with pytest.raises(type(error)) as raised:
        processes.on_main(failing(error))
    assert raised.value is error and sent == [[None, error]]


def test_an_error_that_nobody_foresaw_ends_the_others_too(sent):
    """The main process keeps it, for its trace; the others would wait."""
    error = ZeroDivisionError("division by zero")
    with pytest.raises(ZeroDivisionError) as raised:
        processes.on_main(failing(error))
    assert raised.value is error
    ((_, told),) = sent
    assert type(told) is UserError and "The main process has failed: " in str(told) and "division by zero" in str(told)


def test_others_return_or_raise_what_they_are_sent(monkeypatch):
    monkeypatch.setattr(processes, "PartialState", lambda: SimpleNamespace(is_main_process=False))
    answers = [[7, None], [None, UserError("The main process has failed: no.")]]
    monkeypatch.setattr(
        processes, "broadcast_object_list", lambda outcome: outcome.__setitem__(slice(None), answers.pop(0))
    )
    assert processes.on_main(failing(AssertionError)) == 7
    with pytest.raises(UserError, match="has failed: no"):
        processes.on_main(failing(AssertionError))
