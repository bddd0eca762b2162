"""Reads small files with keys. A link to a device, a pipe or a huge file is refused before it is opened."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import zmq.auth

#: Largest size of a file with a key or a token, in bytes.
MAX_BYTES = 65536
#: Length of a CURVE key in Z85.
_KEY_LENGTH = 40


def check_small_file(path: str | os.PathLike[str]) -> None:
    """Checks that a path is a regular file of limited size, or a link to one.

    Raises:
        OSError: it is not, or does not exist.
    """
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise OSError("it is not a regular file")
    if found.st_size > MAX_BYTES:
        raise OSError(f"it has {found.st_size} bytes, more than {MAX_BYTES}")
    if not found.st_size:  # files of /proc, which may have no end, have this size too
        raise OSError("it is empty")


def load_key(path: Path) -> tuple[bytes, bytes | None]:
    """Returns the public key in a file of ``bert-serving-keygen``, and the secret key if it has one.

    Raises:
        OSError: the file cannot be read, or is no small regular file.
        ValueError: it has no key.
    """
    check_small_file(path)
    public, secret = zmq.auth.load_certificate(path)
    if len(public) != _KEY_LENGTH:
        raise ValueError(f"a public key has {_KEY_LENGTH} characters in Z85, but that of {path} has {len(public)}")
    return public, secret
