"""Two computers train as one process does; where one dies the other says so and ends, and a relaunch goes on."""

import functools
import time

import pytest
from hosts import launch_on, two_hosts
from processes import batches, needs_compiler, tiny_arguments, train_tiny
from runs import assert_same_weights
from waiting import LONG

pytestmark = [pytest.mark.launch, pytest.mark.slow]
KINDS = ["ddp", pytest.param("zero2", marks=needs_compiler)]
OVERRIDES = [*batches(4, 1), "tracking.report_to=none", "evaluate.sampling=[]"]
LOST = "Error while training sft: Another process of this launch has ended or cannot be reached"


@pytest.fixture
def hosts():
    with two_hosts() as both:
        yield both


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Runs on two hosts by kind: the run folder, and the logged rows of the supervised stages."""

    @functools.cache
    def run(kind):
        folder = tmp_path_factory.mktemp(kind)
        with two_hosts() as both:
            return train_tiny(kind, folder, *batches(4, 1), launched=functools.partial(launch_on, both, folder))

    return run


def losses(rows):
    return [row["loss"] for row in rows]


@pytest.mark.parametrize("kind", KINDS)
def test_two_hosts_have_the_losses_of_one_process(one_process, unbroken, kind):
    _, expected = one_process
    folder, rows = unbroken(kind)
    assert len(expected) == 12 and losses(rows) == pytest.approx(losses(expected), abs=2e-4)
    assert (folder / "rl" / "final" / "model.safetensors").is_file()


def start_and_wait(hosts, victim, folder, kind, *overrides):
    """Starts a launch whose victim waits after the third step, and so the other one in the fourth."""
    logs = [folder / f"host{host.rank}.log" for host in hosts]
    train = ["train", *tiny_arguments(folder, *OVERRIDES, *overrides)]
    (folder / "go").touch()
    waits = [folder / ("never" if host.rank == victim else "go") for host in hosts]
    started = [
        host.start(kind, log, "tests/paused_run.py", wait, *train)
        for host, log, wait in zip(hosts, logs, waits, strict=True)
    ]
    deadline = time.monotonic() + LONG
    while not (folder / "tiny/sft/checkpoint-2/trainer_state.json").exists():
        assert time.monotonic() < deadline and all(process.poll() is None for process in started), logs[0].read_text()
        time.sleep(0.1)
    time.sleep(1)  # until the fourth step
    return started, logs


@pytest.mark.parametrize(("kind", "victim"), [("ddp", 0), ("ddp", 1), pytest.param("zero2", 1, marks=needs_compiler)])
def test_where_a_host_is_killed_the_other_ends_and_a_relaunch_goes_on(unbroken, hosts, tmp_path, kind, victim):
    started, logs = start_and_wait(hosts, victim, tmp_path, kind)
    made_by = (tmp_path / "tiny/sft/checkpoint-2/trainer_state.json").read_text()
    assert ("DeepSpeed ZeRO-2" in made_by) == (kind == "zero2")
    hosts[victim].kill()
    assert started[1 - victim].wait(timeout=60) == 1  # accelerate's code for any error
    said = [line for line in logs[1 - victim].read_text().splitlines() if line.startswith("Error")]
    assert len(said) == 1 and said[0].startswith(LOST)
    assert "The same command with --resume goes on from the last checkpoint." in said[0]
    assert not (tmp_path / "tiny" / "sft" / "final").exists()
    launch_on(hosts, tmp_path, kind, "scripts/train.py", *tiny_arguments(tmp_path, *OVERRIDES), "--resume")
    for stage in ("sft", "curriculum", "rl"):
        assert_same_weights(tmp_path / "tiny" / stage / "final", unbroken(kind)[0] / stage / "final")


def test_a_silent_host_is_waited_for_as_long_as_ddp_timeout_says(hosts, tmp_path):
    """No connection is closed, so nobody can know. Both hosts end, since neither reaches the other."""
    started, logs = start_and_wait(hosts, 1, tmp_path, "ddp", "sft.trainer.ddp_timeout=15")
    hosts[1].unplug()
    begun = time.monotonic()
    assert started[0].wait(timeout=60) == 1
    assert time.monotonic() - begun > 5  # it waited
    assert f"{LOST} (Timed out waiting 15000ms" in logs[0].read_text()
