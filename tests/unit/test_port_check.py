"""The error of a port that cannot be bound names the option that is wrong, and the remedy."""

from __future__ import annotations

import dataclasses
import errno
import socket
import sys

import pytest

from bert_serving.server.config.server_config import ServerConfig
from bert_serving.server.errors import PortInUse, StartError
from bert_serving.server.supervisor.port_check import check_ports
from bert_serving.server.supervisor.port_lock import PortLock
from servers import TINY, free_ports


def config(host: str) -> ServerConfig:
    port, port_out = free_ports()
    return ServerConfig(model_dir=str(TINY), host=host, port=port, port_out=port_out)


@pytest.mark.parametrize("host", ["*", "0.0.0.0", "127.0.0.1", "localhost"])
def test_free_ports_pass(host: str) -> None:
    check_ports(config(host))


WRONG_HOSTS = ["192.0.2.1", "2001:db8::1", "[2001:db8::1]", "fe80::1", "no.such.host.invalid", "::1::2", "1.2.3", "a b",
               "x" * 300, "[]"]  # fmt: skip


@pytest.mark.parametrize("host", WRONG_HOSTS)
def test_a_wrong_host_is_named_and_no_program_is_blamed(host: str) -> None:
    with pytest.raises(StartError) as caught:
        check_ports(config(host))
    assert not isinstance(caught.value, PortInUse)
    assert "-host" in str(caught.value)
    assert host == "[]" or host in str(caught.value)
    assert "127.0.0.1" in str(caught.value)
    assert "stop" not in str(caught.value)


@pytest.mark.parametrize("host", ["*", "127.0.0.1", "::1"])
def test_a_port_in_use_is_named(host: str) -> None:
    mine = config(host)
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server(("" if host == "*" else host, mine.port_out), family=family)
    except OSError as error:
        pytest.skip(f"this machine has no {host}: {error}")
    with listener, pytest.raises(PortInUse, match=f"-port_out {mine.port_out} cannot be used .* stop the program"):
        check_ports(mine)


def test_a_port_that_needs_a_privilege_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    mine = config("*")
    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(StartError, match="choose a port from 1024 on") as caught:
        check_ports(mine)
    assert not isinstance(caught.value, PortInUse)


def test_a_machine_without_ipv6_serves_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket

    def without_ipv6(family: int = -1, *args: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(family, *args)

    mine, others = config("*"), config("::")
    monkeypatch.setattr(socket, "socket", without_ipv6)
    check_ports(mine)
    with pytest.raises(StartError, match="no IPv6"):
        check_ports(others)


@pytest.mark.skipif(sys.platform != "linux", reason="ports are reserved on Linux only")
@pytest.mark.parametrize("host", ["*", "0.0.0.0", "::", "[::]"])
def test_all_names_of_all_addresses_share_one_reservation(host: str) -> None:
    mine = config("*")
    lock = PortLock(mine)
    try:
        with pytest.raises(PortInUse, match="another server has just started"):
            PortLock(dataclasses.replace(mine, host=host))
        PortLock(dataclasses.replace(mine, host="127.0.0.2")).close()
    finally:
        lock.close()
    PortLock(dataclasses.replace(mine, host=host)).close()
