"""Reads the bearer token of the HTTP server from a file or from the environment."""

from __future__ import annotations

import hmac
import os
from pathlib import Path

from ..config.options import ServerConfig
from ..errors import ConfigError
from ..security.key_file import check_small_file

TOKEN_VARIABLE = "BERT_SERVING_HTTP_TOKEN"


def read_token(config: ServerConfig) -> str | None:
    """Returns the token in ``-http_token_file``, else in ``BERT_SERVING_HTTP_TOKEN``, else None.

    Raises:
        ConfigError: the file cannot be read; the file or the variable is empty, or has several lines.
    """
    if config.http_token_file is None:
        if TOKEN_VARIABLE not in os.environ:
            return None
        token = os.environ[TOKEN_VARIABLE].strip()
        if not token or "\n" in token:
            raise ConfigError(
                f"the variable {TOKEN_VARIABLE} is set, but is not one line with the token: set the token, or unset "
                f"the variable for an HTTP server that is open to all"
            )
        return token
    try:
        check_small_file(config.http_token_file)
        token = Path(config.http_token_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"-http_token_file {config.http_token_file} cannot be read: {error}") from None
    if not token or "\n" in token:
        raise ConfigError(f"-http_token_file {config.http_token_file} must contain exactly one line with the token")
    return token


def is_authorized(header: str, token: str) -> bool:
    """Returns whether the header ``Authorization``, decoded as Latin-1, has the token.

    Compares in constant time, so that the duration does not reveal a correct prefix.
    """
    scheme, _, sent = header.partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(sent.strip().encode("latin-1", "replace"), token.encode())
