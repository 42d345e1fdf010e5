"""Ports that only root may listen at, and the ways around them."""

import socket

import pytest
from bench.ports import free_port

from skerry.machine.full import detours
from skerry.machine.full.detours import Detour

HERE = "127.0.0.1"


def test_low_ports_alone_get_a_detour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detours, "first_free", lambda: 1024)
    wanted = [(HERE, 80, "tcp"), (HERE, 1023, "udp"), (HERE, 1024, "tcp"), ("0.0.0.0", 80, "tcp")]
    found = detours.choose(wanted)
    assert [each[:3] for each in found] == [wanted[0], wanted[1], wanted[3]]
    assert all(20000 <= each.to < 32768 for each in found)


def test_the_kernel_says_what_is_low() -> None:
    assert 0 <= detours.first_free() <= 65536


def test_a_port_that_is_held_is_nobody_elses() -> None:
    port = free_port()
    (held,) = detours.hold([[HERE, port, "tcp", 20000]])
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            other.bind((HERE, port))
    assert detours.hold([[HERE, port, "tcp"]]) == []
    held.close()


def test_a_rule_names_its_address_or_any_of_the_hosts() -> None:
    one = detours.rules(Detour("192.0.2.7", 80, "tcp", 20480))
    every = detours.rules(Detour(detours.ANY, 80, "tcp", 20480))
    assert one.keys() == every.keys() == {"came", "sent"}
    assert socket.inet_aton("192.0.2.7") in one["came"]
    assert b"fib\0" in every["came"]
    assert b"fib\0" not in one["came"]
    assert (20480).to_bytes(2, "big") in one["sent"]
