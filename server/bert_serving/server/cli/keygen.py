"""The command ``bert-serving-keygen``: creates CURVE keys for the server and for clients."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import zmq
import zmq.auth

from bert_serving.client.command_parser import CommandParser, describe_error
from bert_serving.client.completion import add_completion

from ..security.curve import CLIENTS, SERVER


def keygen(argv: Sequence[str] | None = None) -> int:
    """Runs the command: creates missing keys of the server and of the named clients. Returns the exit code."""
    parser = CommandParser(
        prog="bert-serving-keygen",
        description="Create the CURVE keys that bert-serving-start -auth_keys KEYS accepts.",
        epilog="A client connects with BertClient(server_key=..., secret_key=...): the public key of the server is in "
        "KEYS/server.key, the secret key of the client in KEYS/NAME.key_secret.",
    )
    parser.add_argument("folder", metavar="KEYS", help="folder for the keys; created if missing")
    parser.add_argument("clients", metavar="NAME", nargs="*", help="names of the clients to create keys for")
    add_completion(parser)
    args = parser.parse_args(argv)
    folder = Path(args.folder)
    try:
        (folder / CLIENTS).mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        for name in [SERVER, *args.clients]:
            if not name.isidentifier() or (name == SERVER and name in args.clients):
                parser.error(f"the client name {name!r} is invalid: use letters, digits and _, and not {SERVER!r}")
            _create(folder, name)
    except OSError as error:
        print(f"bert-serving-keygen: {describe_error(error)}", file=sys.stderr)
        return 1
    return 0


def _create(folder: Path, name: str) -> None:
    secret = folder / f"{name}.key_secret"
    if secret.exists():
        print(f"{secret} exists already and is kept")
        return
    old_mask = os.umask(0o077)
    try:
        public_path, _ = zmq.auth.create_certificates(str(folder), name)
    finally:
        os.umask(old_mask)
    if name != SERVER:
        public_path = str(Path(public_path).rename(folder / CLIENTS / f"{name}.key"))
    public, _ = zmq.auth.load_certificate(public_path)
    print(f"{name}: public key {public.decode()} in {public_path}, secret key in {secret}")
