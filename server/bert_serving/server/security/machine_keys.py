"""Reads the CURVE keys of a machine that joins a server.

``bert-serving-keygen KEYS gpu1`` writes them on the machine of the front. ``KEYS/server.key`` and
``KEYS/gpu1.key_secret`` go to the folder ``-join_keys`` of the machine gpu1.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from ..errors import ConfigError
from .curve import SERVER
from .key_file import load_key


class MachineKeys(NamedTuple):
    """Public key of the front, and the keys of the machine, in Z85."""

    server_key: str
    public_key: str
    secret_key: str

    def encode(self) -> tuple[bytes, bytes, bytes]:
        return self.server_key.encode(), self.public_key.encode(), self.secret_key.encode()


def read_machine_keys(folder: str) -> MachineKeys:
    """Reads the keys of ``bert-serving-join -join_keys``.

    Raises:
        ConfigError: a key is missing, cannot be read, or other users can read the secret key.
    """
    path = Path(folder)
    remedy = (
        "make keys with bert-serving-keygen KEYS NAME on the machine of the front, and copy KEYS/server.key and "
        "KEYS/NAME.key_secret to this folder"
    )
    own = sorted(each for each in path.glob("*.key_secret") if each.stem != SERVER)
    if len(own) != 1:
        found = ", ".join(each.name for each in own) or "none"
        raise ConfigError(f"-join_keys {folder} needs the secret key of this machine alone, but has {found}: {remedy}")
    try:
        if os.name == "posix" and own[0].stat().st_mode & 0o077:
            raise ConfigError(f"{own[0]} can be read by other users; protect it with: chmod 600 {own[0]}")
        server, _ = load_key(path / f"{SERVER}.key")
        public, secret = load_key(own[0])
    except (OSError, ValueError) as error:
        raise ConfigError(f"-join_keys {folder}: {error}; {remedy}") from None
    if secret is None:
        raise ConfigError(f"{own[0]} holds no secret key: {remedy}")
    return MachineKeys(server.decode(), public.decode(), secret.decode())
