"""Two computers in one: network namespaces that are joined by a cable and share the file system."""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from waiting import LONG

MULTINODE = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "recipes/accelerate/multinode.yaml"]
# multinode.yaml asks for ZeRO-3.
KINDS = {"ddp": ["--multi_gpu"], "zero2": ["--zero_stage", "2", "--zero3_init_flag", "false"]}
NUMBERS = itertools.count()


class Host:
    """A namespace with an address and a hostname of its own."""

    def __init__(self, rank):
        self.rank, self.address, self.interface = rank, f"10.77.0.{rank + 1}", f"cable{rank}"
        self.name = f"host{rank}-of-{os.getpid()}-{next(NUMBERS)}"

    def start(self, kind, log, *arguments, **environment):
        """Starts this host's part of a launch. What it prints goes into the file `log`."""
        launch = [*MULTINODE, *KINDS[kind], "--machine_rank", str(self.rank), "--main_process_ip", "10.77.0.1"]
        named = ["unshare", "--uts", "sh", "-c", 'hostname "$0"; exec "$@"', self.name]
        inside = ["ip", "netns", "exec", self.name, *named]
        quiet = {"PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
        with open(log, "w") as file:
            return subprocess.Popen(
                [*inside, *launch, *map(str, arguments)],
                cwd=ROOT,
                env={**os.environ, **quiet, **environment},
                stdout=file,
                stderr=file,
            )

    def kill(self):
        """Ends all processes of this host at once, as the loss of its power does, but closes their connections."""
        for pid in _ip("netns", "pids", self.name).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def unplug(self):
        """Takes this host off the network; no connection is closed."""
        _ip("-n", self.name, "link", "set", self.interface, "down")


@contextlib.contextmanager
def two_hosts():
    """Hosts of rank 0 and 1. The test is skipped where network namespaces cannot be made."""
    hosts = [Host(rank) for rank in (0, 1)]
    with contextlib.ExitStack() as cleanup:
        try:
            for host in hosts:
                _ip("netns", "add", host.name)
                cleanup.callback(_remove, host)
                subprocess.run(["ip", "netns", "exec", host.name, "unshare", "--uts", "true"], check=True)
            one, other = hosts
            pair = ["peer", "name", other.interface, "netns", other.name]
            _ip("-n", one.name, "link", "add", one.interface, "type", "veth", *pair)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("network namespaces need root and iproute2")
        for host in hosts:
            _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", host.interface)
            for interface in ("lo", host.interface):
                _ip("-n", host.name, "link", "set", interface, "up")
        yield hosts


def launch_on(hosts, folder, kind, *arguments, **environment):
    """Runs a launch on all hosts to its end."""
    logs = [folder / f"host{host.rank}.log" for host in hosts]
    started = [host.start(kind, log, *arguments, **environment) for host, log in zip(hosts, logs, strict=True)]
    for process, log in zip(started, logs, strict=True):
        assert process.wait(timeout=LONG) == 0, log.read_text()[-6000:]


def _ip(*arguments):
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


def _remove(host):
    """Removes a host, whose cable goes with it once no process is left."""
    deadline = time.monotonic() + 10
    while _ip("netns", "pids", host.name) and time.monotonic() < deadline:
        host.kill()
        time.sleep(0.05)
    _ip("netns", "delete", host.name)
