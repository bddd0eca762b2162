"""Checks before the start that the ports can be bound, and names the option that is wrong if one cannot."""

from __future__ import annotations

import contextlib
import errno
import os
import socket

from ..config.contradictions import named_ports
from ..config.server_config import ServerConfig
from ..errors import PortInUse, StartError

_HOSTS = "use an address of one of its interfaces, 127.0.0.1, or * for all"


def check_ports(config: ServerConfig) -> None:
    """Checks that all ports can be bound.

    Raises:
        PortInUse: another program uses a port.
        StartError: ``-host`` is not an address of this machine, or a port needs a privilege.
    """
    for name, (host, port) in named_ports(config).items():
        _check_port(host, port, name)


def _check_port(host: str, port: int, name: str) -> None:
    address = host.strip("[]")
    if not address:
        raise StartError(f"{_host_option(name)} is empty; {_HOSTS}")
    with _open_socket(host, name) as probe:
        if os.name == "posix":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # ignores connections of an ended server
        if probe.family == socket.AF_INET6:
            with contextlib.suppress(OSError):
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # as ZeroMQ binds it
        if address == "*":
            address = "::" if probe.family == socket.AF_INET6 else "0.0.0.0"
        try:
            # ZeroMQ resolves names to IPv4.
            found = socket.getaddrinfo(address, port, probe.family, socket.SOCK_STREAM)[0][4]
        except (OSError, UnicodeError) as error:
            raise StartError(
                f"{_host_option(name)} {host} is not an address of this machine: {error}; {_HOSTS}"
            ) from None
        try:
            probe.bind(found)
            probe.listen(1)
        except OSError as error:
            raise _bind_error(host, port, name, error) from None


def _open_socket(host: str, name: str) -> socket.socket:
    if ":" in host or host == "*":
        try:
            return socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        except OSError as error:
            if host != "*":
                raise StartError(
                    f"{_host_option(name)} {host}: this machine has no IPv6 ({error.strerror}); {_HOSTS}"
                ) from None
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM)


def _bind_error(host: str, port: int, name: str, error: OSError) -> StartError:
    option = f"-{name} {port} cannot be used ({error.strerror})"
    if error.errno == errno.EADDRINUSE:
        return PortInUse(f"{option}: stop the program that uses it, or choose another port")
    if error.errno in (errno.EADDRNOTAVAIL, errno.EINVAL):
        return StartError(f"{_host_option(name)} {host} is not an address of this machine ({error.strerror}); {_HOSTS}")
    if error.errno in (errno.EACCES, errno.EPERM):
        return StartError(f"{option}: choose a port from 1024 on, or give the server the privilege to bind it")
    return StartError(f"{_host_option(name)} {host}: {option}")


def _host_option(name: str) -> str:
    """Returns the option with the address of a port."""
    return "-join_host" if name.startswith("join") else "-host"
