"""Who may talk to the server: CURVE encryption on both ports, and a folder of the keys that are let in.

``bert-serving-keygen KEYS alice bob`` writes::

    KEYS/server.key            public; clients need it
    KEYS/server.key_secret     the server's own, readable by its user only
    KEYS/clients/alice.key     public; whoever is in this folder may connect
    KEYS/alice.key_secret      to be handed to alice, and then deleted here

and ``bert-serving-start -auth_keys KEYS`` uses them. A file that is added to or removed from ``clients`` counts at
once, for new connections. The files are pyzmq's certificates (ZeroMQ RFC 42, https://rfc.zeromq.org/spec/42).
"""

from __future__ import annotations

import ipaddress
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import zmq
import zmq.auth
from zmq.auth.thread import ThreadAuthenticator

from ..errors import ConfigError

SERVER, CLIENTS = "server", "clients"
DOMAIN = "bert-serving"


def read_server_keys(folder: str) -> tuple[bytes, bytes]:
    """The server's public and secret key.

    Raises:
        ConfigError: they cannot be read, or other users can read the secret one.
    """
    path = Path(folder) / f"{SERVER}.key_secret"
    if not zmq.has("curve"):
        raise ConfigError("-auth_keys needs a ZeroMQ library with CURVE; install pyzmq from its wheels on PyPI")
    try:
        if os.name == "posix" and path.stat().st_mode & 0o077:
            raise ConfigError(f"{path} can be read by other users; protect it with: chmod 600 {path}")
        public, secret = zmq.auth.load_certificate(path)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"-auth_keys {folder}: no key of the server ({error}); make one with: bert-serving-keygen {folder}"
        ) from None
    if secret is None:
        raise ConfigError(f"{path} holds no secret key; make a new one with: bert-serving-keygen {folder}")
    return public, secret


class AllowedKeys:
    """The public keys that are let in: the files in ``clients``, read again whenever the folder changed.

    Args:
        folder: the folder of ``-auth_keys``.
        extra: keys that are let in as well, as Z85: the server's own HTTP server.
    """

    def __init__(self, folder: str, extra: Sequence[str] = ()) -> None:
        self._folder = Path(folder) / CLIENTS
        self._extra = {key.encode() for key in extra}
        self._lock = threading.Lock()
        self._seen: tuple[tuple[str, int, int], ...] | None = None
        self._keys: set[bytes] = set()

    def callback(self, domain: str, key: bytes) -> bool:
        """Whether the owner of ``key`` (Z85) may connect; pyzmq's authenticator calls it, and ends if it raises."""
        try:
            return key in self._extra or key in self.read()
        except OSError:  # a folder that may not be entered: nobody whom we cannot look up comes in
            return False

    def read(self) -> set[bytes]:
        """The keys as they are in the folder now. A file that holds no key lets nobody in."""
        with self._lock:
            files = sorted(self._folder.glob("*.key")) if self._folder.is_dir() else []
            stats = [(path, stat) for path in files if (stat := _stat(path))]
            state = tuple((path.name, stat.st_mtime_ns, stat.st_size) for path, stat in stats)
            if state != self._seen:
                self._keys = {key for path, _ in stats if (key := _public_key(path))}
                self._seen = state
            return self._keys


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:  # it was there a moment ago
        return None


def _public_key(path: Path) -> bytes | None:
    try:
        return zmq.auth.load_certificate(path)[0]
    except (OSError, ValueError):
        return None


class CurveAuth:
    """Encrypts the sockets of one process, and lets in who is on the key ring; without ``folder`` it does nothing."""

    def __init__(self, folder: str | None, extra: Sequence[str] = ()) -> None:
        self._folder, self._extra = folder, extra
        self._authenticators: list[ThreadAuthenticator] = []

    def apply(self, context: zmq.Context[zmq.Socket[bytes]], sock: zmq.Socket[bytes]) -> None:
        """Call it before the socket is bound."""
        if self._folder is None:
            return
        public, secret = read_server_keys(self._folder)
        authenticator = ThreadAuthenticator(context)
        authenticator.start()
        authenticator.configure_curve_callback(DOMAIN, AllowedKeys(self._folder, self._extra))
        self._authenticators.append(authenticator)
        sock.curve_publickey, sock.curve_secretkey, sock.curve_server = public, secret, True
        sock.setsockopt(zmq.ZAP_DOMAIN, DOMAIN.encode())

    def close(self) -> None:
        """Ends the authenticators, so that their context can end."""
        for authenticator in self._authenticators:
            authenticator.stop()


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address. Names other than ``localhost`` are not looked up."""
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return host == "localhost"
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def warn_if_open(host: str, auth_keys: str | None, warn: Callable[[str], None]) -> None:
    """Says aloud that anyone who reaches the ports may use the server."""
    if auth_keys is None and not is_loopback(host):
        warn(
            f"-host {host}: everyone who can reach this machine can use the server, and read what is sent. Bind it to "
            f"127.0.0.1, keep it behind a firewall, or let only known keys in with -auth_keys"
        )
