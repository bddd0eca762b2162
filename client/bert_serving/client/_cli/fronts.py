"""The addresses of the servers that encode a corpus. Pure."""

from __future__ import annotations

import argparse
from typing import NamedTuple

from .._arguments import host_name, port_number
from ..errors import OptionError


class Front(NamedTuple):
    """The address of a server: ``HOST``, its ``-port`` and its ``-port_out``."""

    host: str
    port: int = 5555
    port_out: int = 5556

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}:{self.port_out}"


def parse_front(text: str) -> Front:
    """Parses ``HOST[:PORT[:PORT_OUT]]``; an IPv6 address is in brackets.

    Raises:
        argparse.ArgumentTypeError: the text is not such an address.
    """
    try:
        host, *ports = _split(text)
        port = port_number("PORT", ports[0]) if ports else 5555
        port_out = port_number("PORT_OUT", ports[1] if len(ports) == 2 else port + 1)
        return Front(host_name(host), port, port_out)
    except OptionError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not HOST[:PORT[:PORT_OUT]], such as 10.0.0.7, 10.0.0.7:5555:5556 or [::1]:5555 ({error})"
        ) from None


def _split(text: str) -> list[str]:
    """Returns the host and the ports that are named."""
    if not text.startswith("["):
        parts = text.split(":")
    else:
        host, bracket, ports = text[1:].partition("]")
        if not bracket or ":" not in host or ports[:1] not in ("", ":"):
            raise OptionError("brackets are for an IPv6 address, with the ports behind them")
        parts = [host, *ports.split(":")[1:]]
    if len(parts) > 3:
        raise OptionError("too many colons; an IPv6 address needs brackets")
    return parts
