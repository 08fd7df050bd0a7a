"""Why a hub id led to nothing, told from the errors of the hub's own library."""

from unittest.mock import Mock

import pytest
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

from neuralese.pipeline.model import folder as model_folder
from neuralese.pipeline.model.folder import Unreachable, not_loaded


def raised(cause):
    """An error as Transformers raises it: of its own, because of one of the hub's."""
    try:
        raise OSError("We couldn't connect to 'https://huggingface.co' to load the files.\nMore.") from cause
    except OSError as error:
        return error


@pytest.mark.parametrize(
    ("cause", "offline", "reachable", "words"),
    [
        (LocalEntryNotFoundError("no"), True, False, "HF_HUB_OFFLINE is set while its cache lacks the model"),
        (LocalEntryNotFoundError("no"), False, False, "the hub cannot be reached while its cache lacks the model"),
        (RepositoryNotFoundError("no", response=Mock()), False, True, "the hub has none of this id, or a private one"),
        (GatedRepoError("no", response=Mock()), False, True, "the hub gives it to those alone whom it has"),
        (
            ConnectionError("no"),
            False,
            True,
            "OSError: We couldn't connect to 'https://huggingface.co' to load the files.",
        ),
    ],
)
def test_the_cause_is_told_before_the_host(monkeypatch, cause, offline, reachable, words):
    monkeypatch.setattr(model_folder, "is_offline_mode", lambda: offline)
    error = not_loaded("org/model", raised(cause))
    assert str(error).startswith(f"There is no model 'org/model': no folder here has that name, and {words}")
    assert isinstance(error, Unreachable) != reachable and "\n" not in str(error)
