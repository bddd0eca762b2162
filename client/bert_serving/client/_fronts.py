"""The addresses of servers, and what servers that share requests must have in common. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ._arguments import host_name, port_number
from .errors import OptionError

_PORT = 5555
_PORT_OUT = 5556
#: Keys of a server's configuration that decide what it returns for a text, with the names in messages.
_MODEL_KEYS = {
    "vector_space": "the vector space",
    "task": "-task",
    "labels": "the labels",
    "max_seq_len": "-max_seq_len",
    "prompt_name": "-prompt_name",
    "fixed_embed_length": "-fixed_embed_length",
    "show_tokens_to_client": "-show_tokens_to_client",
    "embedding_types": "the vector space by embedding type",
}
#: Those that a server of an earlier version does not name.
_LATER_KEYS = ("embedding_types",)


class Front(NamedTuple):
    """The address of a server: ``HOST``, its ``-port`` and its ``-port_out``."""

    host: str
    port: int = _PORT
    port_out: int = _PORT_OUT

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}:{self.port_out}"


def parse_front(text: Any) -> Front:
    """Parses ``HOST[:PORT[:PORT_OUT]]``; an IPv6 address is in brackets.

    Raises:
        OptionError: the text is not such an address.
    """
    try:
        host, *ports = _split(text)
        port = port_number("PORT", ports[0]) if ports else _PORT
        port_out = port_number("PORT_OUT", ports[1] if len(ports) == 2 else port + 1)
        return Front(host_name(host), port, port_out)
    except OptionError as error:
        raise OptionError(
            f"{text!r} is not HOST[:PORT[:PORT_OUT]], such as 10.0.0.7, 10.0.0.7:5555:5556 or [::1]:5555 ({error})"
        ) from None


def fronts_of(ip: Any, port: Any, port_out: Any) -> list[Front]:
    """Returns the servers that the arguments of a client name.

    Args:
        ip: a host name or an address; several servers as a list of ``HOST[:PORT[:PORT_OUT]]``.

    Raises:
        OptionError: an address is not valid, or a server is named twice.
    """
    if not isinstance(ip, (list, tuple)):
        return [Front(host_name(ip), port_number("port", port), port_number("port_out", port_out))]
    if (port, port_out) != (_PORT, _PORT_OUT):
        raise OptionError(
            f"with a list as ip, each address has its own ports, but port={port!r} and port_out={port_out!r} are "
            'given; pass them as ip=["HOST:PORT:PORT_OUT", ...]'
        )
    fronts = [parse_front(text) for text in ip]
    if not fronts:
        raise OptionError("ip is an empty list; pass at least one address")
    for front in fronts:
        if fronts.count(front) > 1:
            raise OptionError(f"ip names the server {front} twice; name each once")
    return fronts


def difference(front: Front, config: Mapping[str, Any], other: Front, other_config: Mapping[str, Any]) -> str | None:
    """Compares the models of two servers.

    Args:
        config, other_config: their configurations.

    Returns:
        A clause that names both values of the first difference; ``None`` if the models are the same.
    """
    for key, name in _MODEL_KEYS.items():
        one, two = config.get(key), other_config.get(key)
        if one != two and not (key in _LATER_KEYS and None in (one, two)):
            return f"{name} of {front} is {one}, and of {other} {two}"
    return None


def lowest_version(configs: Iterable[Mapping[str, Any]]) -> int:
    """Returns the lowest protocol version of several servers, all of this project."""
    return min(int(config["protocol_version"]) for config in configs)


def _split(text: Any) -> list[str]:
    """Returns the host and the ports that are named."""
    if not isinstance(text, str):
        raise OptionError(f"an address must be a str, but is {type(text).__name__}")
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
