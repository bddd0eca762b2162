"""Reads the JSON or TOML file that an option names."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from bert_serving.client.command_parser import describe_error

from .errors import ConfigError

#: Largest size of a file.
MAX_FILE_BYTES = 2**24

T = TypeVar("T")


def read_option_file(
    option: str,
    path: str,
    convert: Callable[[Any], T],
    problem: str,
    remedy: str,
    decode: Callable[[str], Any] = json.loads,
) -> T:
    """Returns the converted content of a file.

    Args:
        option: name of the option, for messages.
        convert: called with the content; may raise KeyError, TypeError, ValueError or AttributeError if it is invalid.
        problem, remedy: what a message says of an invalid file.
        decode: decodes the text of the file; raises ValueError if it is invalid.

    Raises:
        ConfigError: the file cannot be read, or is invalid.
    """
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode) or not 0 < found.st_size <= MAX_FILE_BYTES:  # others may have no end
            raise ValueError(f"no regular file of 1 to {MAX_FILE_BYTES} bytes")
        return convert(decode(Path(path).read_text(encoding="utf-8-sig")))
    except OSError as error:
        raise ConfigError(f"{option} cannot be read: {describe_error(error)}") from None
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{option} {path} {problem} ({error}): {remedy}") from None
