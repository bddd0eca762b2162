"""The CURVE keys of a connection, read from the arguments of a client."""

from __future__ import annotations

import os

import zmq
import zmq.auth

from ..errors import OptionError
from .sockets import Curve


def curve_keys(server_key: str | None, public_key: str | None, secret_key: str | None) -> Curve | None:
    """Returns the keys that the arguments name; ``None`` for no encryption.

    Raises:
        OptionError: an argument is not valid.
    """
    if server_key is None:
        if public_key or secret_key:
            raise OptionError(
                "public_key and secret_key have no effect without server_key, the server's public key; add server_key"
            )
        return None
    server_key = _key("server_key", server_key)
    try:
        if secret_key is None:
            public, secret = (key.decode() for key in zmq.curve_keypair())
        else:
            secret = _key("secret_key", secret_key)
            public = _key("public_key", public_key) if public_key else zmq.curve_public(secret.encode()).decode()
    except (zmq.ZMQError, ValueError) as error:
        raise OptionError(f"secret_key must be a CURVE key of 40 characters in Z85: {error}") from error
    return Curve(server_key, public, secret)


def _key(name: str, value: str) -> str:
    """Returns a key in Z85: ``value`` itself, or the content of the certificate file at that path."""
    if not isinstance(value, (str, os.PathLike)):
        raise OptionError(
            f"{name} must be a str, a CURVE key or the path of a key file, but is {type(value).__name__}; "
            "decode a key in bytes"
        )
    value = os.fspath(value)
    if len(value) == 40 and not os.path.exists(value):
        return value
    try:
        public, secret = zmq.auth.load_certificate(value)
    except (OSError, ValueError) as error:
        raise OptionError(
            f"{name} must be a CURVE key of 40 characters in Z85, or the path of a key file, but is {value!r}: {error}"
        ) from error
    key = secret if name == "secret_key" else public
    if key is None:
        raise OptionError(f"{name}: {value} holds no secret key; give the .key_secret file")
    return key.decode()
