"""The interface that processes of several machines talk through."""

import os

import psutil
import pytest

from neuralese.pipeline.system.network import choose_interface

LOOPBACK = next(
    name for name, found in psutil.net_if_addrs().items() if "127.0.0.1" in [address.address for address in found]
)


@pytest.fixture
def launched(monkeypatch):
    """What a launcher tells the first process of two machines with two each."""
    for name, value in {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "none")  # restored after the test
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    return monkeypatch


def test_the_interface_towards_the_main_machine_is_taken(launched):
    choose_interface()
    assert os.environ["GLOO_SOCKET_IFNAME"] == LOOPBACK


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LOCAL_WORLD_SIZE", "4"),  # one machine
        ("MASTER_ADDR", "no-such-host.invalid"),  # joining will say so
    ],
)
def test_nothing_is_chosen_where_nothing_can_be(launched, name, value):
    launched.setenv(name, value)
    choose_interface()
    assert "GLOO_SOCKET_IFNAME" not in os.environ


def test_the_users_own_choice_stays(launched):
    launched.setenv("GLOO_SOCKET_IFNAME", "eth7")
    choose_interface()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "eth7"
