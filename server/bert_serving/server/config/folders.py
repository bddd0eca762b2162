"""Hides folders in the status that a caller from another machine receives."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from bert_serving.client.completion import FILES, FOLDERS

from .options import OPTIONS

_OF_OPTIONS = (name for name, option in OPTIONS.items() if option.metavar in (*FOLDERS, *FILES))
#: Keys of the status whose values are paths or addresses of socket files, or lists of them.
PATH_KEYS = frozenset((
    *_OF_OPTIONS, "ckpt_name", "config_name", "ventilator -> worker", "worker -> sink", "ventilator <-> sink",
))  # fmt: skip


def hide_folders(status: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a status with the last component of each path only."""
    return {key: _last_component(value) if key in PATH_KEYS else value for key, value in status.items()}


def _last_component(value: Any) -> Any:
    if isinstance(value, list):
        return [_last_component(each) for each in value]
    if not isinstance(value, str) or value.startswith("tcp://"):
        return value
    scheme, separator, path = value.rpartition("://")
    return scheme + separator + os.path.basename(path.rstrip(os.sep))
