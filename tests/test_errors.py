"""What a user sees of an error: one paragraph of one process, and where the stack trace is."""

import io
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from conftest import ROOT
from waiting import LONG
from wandb_reader import read_run

from neuralese.pipeline.cli import check_output, errors
from neuralese.pipeline.cli.app import main
from neuralese.pipeline.cli.machine_errors import missing, written_file
from neuralese.pipeline.run import launch
from neuralese.pipeline.system.activity import NOW, begin, doing

TINY = str(ROOT / "tests" / "tiny.yaml")


def neuralese(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return stop.value.code or 0, captured.out, captured.err


@pytest.mark.parametrize("arguments", [["--debug", "check", TINY], ["check", TINY, "--debug"]])
def test_debug_shows_the_trace_before_the_paragraph(capsys, arguments):
    code, _, error = neuralese(capsys, *arguments, "sft.trainr={}")
    assert code == 2
    assert error.startswith("Traceback") and "parse_recipe" in error
    assert error.splitlines()[-1].startswith("Error: ") and "unknown key 'sft.trainr'" in error.splitlines()[-1]


def test_debug_after_two_dashes_is_a_word_like_any_other(capsys):
    code, _, error = neuralese(capsys, "recipes", "copy", "--", "--debug")
    assert code == 2 and "There is no recipe '--debug'" in error and "Traceback" not in error


def test_mistakes_of_the_command_line_are_told_by_the_command_line(capsys):
    code, _, error = neuralese(capsys, "trian")
    assert code == 2 and "No such command 'trian'. Did you mean" in error and "'train'" in error
    code, _, error = neuralese(capsys, "train")
    assert code == 2 and "Missing argument" in error
    assert "--debug" in neuralese(capsys, "--help")[1]


def test_without_a_run_folder_the_trace_is_in_a_file_that_is_named(capsys, monkeypatch, tmp_path):
    def fail(*_):
        NOW.folder = tmp_path / "gone"  # cannot be written to
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(check_output, "print_plan", fail)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code, _, error = neuralese(capsys, "check", TINY)
    assert code == 1 and "Error: RuntimeError: first line second line. Nobody foresaw" in error
    (name,) = re.findall(r"The full trace is in (\S+neuralese-\S+\.log), and --debug shows it\.", error)
    trace = Path(name).read_text()
    assert "Traceback" in trace and "in fail" in trace


def test_the_innermost_task_is_named_and_forgotten_by_the_next_command(capsys, monkeypatch):
    def fail(*_):
        with doing("reading"), doing("counting"):
            raise RuntimeError("three")

    monkeypatch.setattr(check_output, "print_plan", fail)
    assert neuralese(capsys, "check", TINY)[2].startswith("Error while counting: RuntimeError: three.")
    with doing("writing"):
        assert NOW.tasks == ["reading", "counting", "writing"]
    begin()
    assert NOW.tasks == []


def test_the_first_process_of_a_launch_that_fails_speaks(capsys, monkeypatch, tmp_path):
    """Each has a file of its own in the folder that torchrun made for the launch."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    spoke = []
    for rank in (1, 0):
        monkeypatch.setattr(errors, "_speaker", None)
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / str(rank) / "error.json"))
        spoke.append(errors._speaks())
        assert errors._speaks() == spoke[-1]  # and goes on to speak
    assert spoke == [True, False]
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setattr(errors, "_speaker", None)
    assert errors._speaks()


def test_a_terminal_of_few_characters_is_no_error(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    with pytest.raises(SystemExit) as stop:
        main(["check", TINY])
    assert not stop.value.code
    sys.stdout.flush()
    assert b"Examples" in sys.stdout.buffer.getvalue()


@pytest.mark.slow
@pytest.mark.launch
@pytest.mark.parametrize("ranks", ["01", "1"])
def test_one_process_of_two_speaks(tmp_path, ranks):
    """All that fail alike, and one that fails while the other waits for it."""
    plugin = tmp_path / "plugin.py"
    plugin.write_text(f"import os\nif os.environ['RANK'] in {ranks!r}:\n    raise ValueError('on a bad day')\n")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "recipes/accelerate/ddp.yaml"]
    command += ["scripts/train.py", TINY, f"output_dir={tmp_path}", "tracking.wandb=false", f"plugins=['{plugin}']"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LONG)
    assert done.returncode == 1
    assert (done.stdout + done.stderr).count("on a bad day") == 1, done.stderr
    assert "Error: Plugin" in done.stderr


@pytest.mark.parametrize(
    ("variables", "count", "expected"),
    [
        ({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_PORT": "29500"}, 1, True),
        ({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_PORT": "29500", "WORLD_SIZE": "2"}, 2, False),
        ({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_PORT": "29500", "WORLD_SIZE": "1"}, 1, False),
        ({"ACCELERATE_MIXED_PRECISION": "no"}, 1, False),
        ({"MASTER_PORT": "29500"}, 1, False),
    ],
)
def test_a_launch_that_wanted_more_processes_is_known(monkeypatch, variables, count, expected):
    for name in ("ACCELERATE_MIXED_PRECISION", "MASTER_PORT", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert launch.asked_for_more(count) is expected


def test_the_file_that_a_library_wrote_is_known(tmp_path):
    """safetensors and torch do not name it in their errors, and a write to an open file does not either."""
    from safetensors.torch import save_file
    from torch import save, zeros

    target = tmp_path / "none" / "weights"
    for write in (save_file, save):
        with pytest.raises(Exception, match=".") as caught:
            write({"a": zeros(2)}, str(target))
        assert written_file(caught.value) == target
    with pytest.raises(OSError, match="space") as caught, open("/dev/full", "w") as full:
        full.write("a" * 100_000)
        full.flush()
    assert caught.value.filename is None and written_file(caught.value) == Path("/dev/full")


def test_variables_of_wandb_hold_where_the_recipe_leaves_the_default(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    monkeypatch.setenv("WANDB_ENTITY", "us")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "w"))
    (tmp_path / "w").mkdir()
    train = ["train", TINY, "rl=null", "curriculum=null", "evaluate.sampling=[]"]
    code, out, _ = neuralese(capsys, *train, f"output_dir={tmp_path / 'a'}")
    assert code == 0
    assert f"2 offline runs; to upload: wandb sync {tmp_path}/w/wandb/offline-run-*" in out
    neuralese(capsys, *train, f"output_dir={tmp_path / 'b'}", "tracking.project=mine")
    found = {}
    for name in ("a", "b"):
        token = (tmp_path / name / "tiny" / "wandb_id").read_text()
        for path in (tmp_path / "w").glob(f"wandb/offline-run-*-{token}/*.wandb"):
            run = read_run(path)
            found.setdefault(name, set()).add((run["project"], run["entity"]))
    assert found == {"a": {("theirs", "us")}, "b": {("mine", "us")}}


def test_the_paragraph_comes_whatever_standard_output_does(capsys, monkeypatch):
    """A full disk behind it, or a closed pipe."""

    class Full(io.StringIO):
        def flush(self):
            raise OSError(28, "No space left on device")

        def fileno(self):
            return spare

    with open("/dev/null", "w") as other:
        spare = other.fileno()
        monkeypatch.setattr(sys, "stdout", Full())
        with pytest.raises(SystemExit) as stop:
            main(["check", TINY, "sft.trainr={}"])
    assert stop.value.code == 2 and "unknown key 'sft.trainr'" in capsys.readouterr().err


def test_half_a_character_in_an_error_does_not_lose_its_trace(capsys, monkeypatch, tmp_path):
    def fail(*_):
        NOW.folder = tmp_path
        raise RuntimeError("bad \udce9 byte")

    monkeypatch.setattr(check_output, "print_plan", fail)
    assert neuralese(capsys, "check", TINY)[0] == 1
    assert "bad \\udce9 byte" in (tmp_path / "error.log").read_text(encoding="utf-8")


def test_standard_error_is_no_file_that_was_being_written():
    def fails(stream):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError) as raised:
        fails(io.TextIOWrapper(io.FileIO(2, "w", closefd=False)))
    assert written_file(raised.value) is None


def test_what_a_checkpoint_lacks_is_told_by_the_one_before_without_its_merge(tmp_path):
    """`load_universal` leaves DeepSpeed's merged parts in it, which no checkpoint is written with."""
    for name, size in (
        ("checkpoint-2/a", 1000),
        ("checkpoint-2/global_step2_universal/b", 5000),
        ("checkpoint-4/a", 400),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    assert missing(OSError("No space left on device"), tmp_path / "checkpoint-4" / "c") == 600
