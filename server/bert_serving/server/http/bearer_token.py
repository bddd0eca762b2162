"""Reads the bearer token of the HTTP server from a file or from the environment."""

from __future__ import annotations

import hmac
import os
from pathlib import Path

from bert_serving.client.command_parser import describe_error

from ..config.server_config import ServerConfig
from ..errors import ConfigError
from ..security.key_file import check_small_file

TOKEN_VARIABLE = "BERT_SERVING_HTTP_TOKEN"


def read_token(config: ServerConfig) -> str | None:
    """Returns the token in ``-http_token_file``, else in ``BERT_SERVING_HTTP_TOKEN``, else None.

    Raises:
        ConfigError: the file cannot be read; the file or the variable is empty, has several lines or characters that
            are not printable.
    """
    if config.http_token_file is None:
        if TOKEN_VARIABLE not in os.environ:
            return None
        token = os.environ[TOKEN_VARIABLE].strip()
        if not _can_be_sent(token):
            raise ConfigError(
                f"the variable {TOKEN_VARIABLE} is set, but is not one line with the token, of printable characters "
                "in UTF-8: set the token, or unset the variable for an HTTP server that is open to all"
            )
        return token
    try:
        check_small_file(config.http_token_file)
        token = Path(config.http_token_file).read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = describe_error(error)
        if not isinstance(error, OSError) or error.filename is None:
            reason = f"{config.http_token_file}: {reason}"
        raise ConfigError(f"-http_token_file cannot be read: {reason}") from None
    if not _can_be_sent(token):
        raise ConfigError(
            f"-http_token_file {config.http_token_file} must contain exactly one line with the token, of printable "
            "characters"
        )
    return token


def _can_be_sent(token: str) -> bool:
    """Returns whether a header can have the token. Bytes of the environment that are not UTF-8 are not printable."""
    return bool(token) and token.isprintable()


def is_authorized(header: str, token: str) -> bool:
    """Returns whether the header ``Authorization``, decoded as Latin-1, has the token.

    Compares in constant time, so that the duration does not reveal a correct prefix.
    """
    scheme, _, sent = header.partition(" ")
    received = sent.strip(" \t").encode("latin-1", "replace")  # other spaces of Latin-1 are bytes of UTF-8
    return scheme.lower() == "bearer" and hmac.compare_digest(received, token.encode())
