"""Encrypts both ports with CURVE and allows clients by their public keys.

``bert-serving-keygen KEYS alice bob`` writes::

    KEYS/server.key            public key of the server; clients need it
    KEYS/server.key_secret     secret key of the server, readable by its user only
    KEYS/clients/alice.key     public key of an allowed client
    KEYS/alice.key_secret      secret key of a client; move it to the client's machine

``bert-serving-start -auth_keys KEYS`` reads them. New connections see added and removed files of ``clients`` at once.
The files are pyzmq's certificates (ZeroMQ RFC 42, https://rfc.zeromq.org/spec/42).
"""

from __future__ import annotations

import ipaddress
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import zmq
import zmq.auth

from ..errors import ConfigError
from .key_file import load_key

if TYPE_CHECKING:
    from zmq.auth.thread import ThreadAuthenticator

SERVER, CLIENTS = "server", "clients"
#: Number of unusable files that the log names.
MAX_PROBLEMS = 100
DOMAIN = "bert-serving"


def read_server_keys(folder: str, option: str = "-auth_keys") -> tuple[bytes, bytes]:
    """Reads the server's public and secret key from the folder of ``option``.

    Raises:
        ConfigError: the keys cannot be read, or other users can read the secret key.
    """
    path = Path(folder) / f"{SERVER}.key_secret"
    if not zmq.has("curve"):
        raise ConfigError(f"{option} needs a ZeroMQ library with CURVE; install pyzmq from its wheels on PyPI")
    try:
        if os.name == "posix" and path.stat().st_mode & 0o077:
            raise ConfigError(f"{path} can be read by other users; protect it with: chmod 600 {path}")
        public, secret = load_key(path)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{option} {folder}: no key of the server ({error}); make one with: bert-serving-keygen {folder}"
        ) from None
    if secret is None:
        raise ConfigError(f"{path} holds no secret key; make a new one with: bert-serving-keygen {folder}")
    return public, secret


class AllowedKeys:
    """Public keys of allowed clients: the files in ``clients``, read again after a change of the folder.

    Args:
        folder: folder of ``-auth_keys``.
        extra: further allowed keys in Z85, such as that of the HTTP server.
        warn: receives the name of a file without a key, and the reason.
    """

    def __init__(
        self, folder: str, extra: Sequence[str] = (), warn: Callable[[str], None] = lambda problem: None
    ) -> None:
        self._folder = Path(folder) / CLIENTS
        self._extra = {key.encode() for key in extra}
        self._lock = threading.Lock()
        self._seen: tuple[tuple[str, int, int], ...] | None = None
        self._names: dict[bytes, str] = {}
        self._warn = warn
        self._problems: set[str] = set()

    def callback(self, domain: str, key: bytes) -> bool:
        """Returns whether ``key`` (Z85) is allowed. Must not raise: pyzmq's authenticator would end."""
        try:
            return key in self._extra or key in self.read()
        except OSError:  # an unreadable folder allows no client
            return False

    def read(self) -> dict[bytes, str]:
        """Returns the keys that are in the folder now, with the names of their files.

        The log names a file without a key, once.
        """
        with self._lock:
            files = sorted(self._folder.glob("*.key")) if self._folder.is_dir() else []
            state = tuple((path.name, *_version(path)) for path in files)
            if state != self._seen:
                self._names = {key: path.stem for path in files if (key := self._load(path))}
                self._seen = state
            return self._names

    def _load(self, path: Path) -> bytes | None:
        try:
            return load_key(path)[0]
        except (OSError, ValueError) as error:
            if path.is_symlink() or path.exists():  # not removed after the listing
                problem = f"{path} allows no client: {getattr(error, 'strerror', None) or error}"
                if problem not in self._problems and len(self._problems) < MAX_PROBLEMS:
                    self._problems.add(problem)
                    self._warn(problem)
            return None


def _version(path: Path) -> tuple[int, int]:
    """Returns values that change with the content of a file."""
    try:
        stat = path.stat()
    except OSError:  # removed after the listing, or a link that leads nowhere
        return 0, 0
    return stat.st_mtime_ns, stat.st_size


class CurveAuth:
    """Encrypts the sockets of one process and authenticates clients; without ``folder`` all clients are allowed."""

    def __init__(
        self, folder: str | None, extra: Sequence[str] = (), warn: Callable[[str], None] = lambda problem: None
    ) -> None:
        self._folder, self._extra, self._warn = folder, extra, warn
        self._authenticators: list[ThreadAuthenticator] = []

    def apply(self, context: zmq.Context[zmq.Socket[bytes]], *sockets: zmq.Socket[bytes]) -> None:
        """Enables CURVE on the sockets of a context, if there are keys. Call it once, before they are bound.

        Peers of ZMTP 1.0 and 2.0 are refused with and without keys: they have no authentication, which a domain
        demands. ZeroMQ takes a peer that sends no ZMTP, such as a browser, for one of version 1.0.
        """
        for sock in sockets:
            sock.setsockopt(zmq.ZAP_DOMAIN, DOMAIN.encode())
        if self._folder is None:
            return
        public, secret = read_server_keys(self._folder)
        from zmq.auth.thread import ThreadAuthenticator  # imports asyncio, which a server without keys does not need

        authenticator = ThreadAuthenticator(context)
        authenticator.start()
        authenticator.configure_curve_callback(DOMAIN, AllowedKeys(self._folder, self._extra, self._warn))
        self._authenticators.append(authenticator)
        for sock in sockets:
            sock.curve_publickey, sock.curve_secretkey, sock.curve_server = public, secret, True

    def close(self) -> None:
        """Stops the authenticators, so that their context can be terminated."""
        for authenticator in self._authenticators:
            authenticator.stop()


def is_loopback(host: str) -> bool:
    """Returns whether an address is reachable from this machine only. Names except ``localhost`` are not resolved."""
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return host == "localhost"
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def plain_host(address: str) -> str:
    """Returns the address of a peer; an IPv4 address that a socket for both families reports, in its usual form."""
    return address.removeprefix("::ffff:")


def is_this_machine(peer: str, host: str) -> bool:
    """Returns whether a peer connected from the machine of a server that is bound to ``host``."""
    return is_loopback(peer) or plain_host(peer) == host.strip("[]")


def warn_if_open(host: str, auth_keys: str | None, warn: Callable[[str], None]) -> None:
    """Warns if the ports are reachable from other machines without authentication."""
    if auth_keys is None and not is_loopback(host):
        warn(
            f"-host {host}: any client that reaches this machine can use the server, and traffic is not encrypted. Use "
            f"-host 127.0.0.1, a firewall, or -auth_keys to allow known keys only"
        )
