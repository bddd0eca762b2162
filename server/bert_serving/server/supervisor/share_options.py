"""Reads the file of ``-http_keys`` for the ventilator, HTTP server and batch jobs, at the start and after SIGHUP."""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Callable
from typing import Any

import msgspec

from ..config.server_config import ServerConfig
from ..errors import ConfigError
from ..http.bearer_token import TOKEN_VARIABLE
from ..ipc import commands
from ..shares.share_file import ShareFile, read_share_file
from .child import Child


def share_options(config: ServerConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the options of the ventilator and of the HTTP server; empty without ``-http_keys``.

    Only the HTTP server gets the keys.

    Raises:
        ConfigError: the file cannot be read or is invalid, it has no key for HTTP, or there is a token too.
    """
    if config.http_keys is None:
        return {}, {}
    if config.http_port is not None and TOKEN_VARIABLE in os.environ:
        raise ConfigError(f"-http_keys and the variable {TOKEN_VARIABLE} exclude each other: unset the variable")
    file = _read(config)
    proof = secrets.token_hex(16)
    return {"shares": {"shares": msgspec.to_builtins(file.shares), "proof": proof}}, {
        "shares": _http_options(file, proof)
    }


def job_options(for_http: dict[str, Any]) -> dict[str, Any] | None:
    """Returns the option ``shares`` of the process of batch jobs; None without ``-http_keys``."""
    shares = for_http.get("shares")
    return None if shares is None else {"names": list(shares["weights"]), "proof": shares["proof"]}


def reload_shares(children: dict[str, Child], tell: Callable[..., None], log: logging.Logger) -> None:
    """Reads the file again. An invalid file is logged, and the earlier content stays.

    Args:
        tell: sends a command to the process with a name.
    """
    ventilator, http = children["ventilator"], children.get("http")
    if ventilator.config.http_keys is None:
        return
    try:
        file = _read(ventilator.config)
    except ConfigError as error:
        log.error("%s; the earlier keys and limits stay", error)
        return
    options = ventilator.options["shares"]
    options["shares"] = msgspec.to_builtins(file.shares)
    tell("ventilator", commands.SHARES, json.dumps(options["shares"]).encode())
    if http is not None:
        http.options["shares"] = _http_options(file, options["proof"])
        tell("http", commands.SHARES, json.dumps(http.options["shares"]).encode())
        if "jobs" in children:
            names = children["jobs"].options["shares"] = job_options(http.options)
            tell("jobs", commands.SHARES, json.dumps(names).encode())
    log.info("read %s again: %d names", ventilator.config.http_keys, len(file.shares))


def _read(config: ServerConfig) -> ShareFile:
    assert config.http_keys is not None
    file = read_share_file(config.http_keys)
    if config.http_port is not None and not file.keys:
        raise ConfigError(
            f"-http_keys {config.http_keys} has no keys, so that no HTTP request would be accepted: add "
            'keys = ["..."] to a name'
        )
    return file


def _http_options(file: ShareFile, proof: str) -> dict[str, Any]:
    limited = [name for name, share in file.shares.items() if share.limits_tokens or share.texts_per_minute]
    weights = {name: share.weight for name, share in file.shares.items()}
    return {"keys": file.keys, "weights": weights, "limited": limited, "proof": proof}
