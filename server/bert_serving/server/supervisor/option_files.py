"""Checks the files and folders that options name, for ``bert-serving-start -check``. Writes nothing."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from ..config.server_config import ServerConfig
from ..errors import ConfigError
from ..http.bearer_token import read_token
from ..model.config import ModelConfig
from ..model.ranges import read_ranges
from ..security.curve import AllowedKeys, read_server_keys
from .preflight import make_access, ranges_path, read_drift
from .share_options import share_options


def check_files_of_server(config: ServerConfig) -> list[str]:
    """Reads keys and tokens, and looks at the folders that the server writes to.

    Returns:
        The files in folders of keys that allow no client.

    Raises:
        ConfigError: the start would refuse a file or folder.
    """
    share_options(config)
    make_access(config, lambda warning: None)  # the warning is about an open port
    if config.join_keys is not None:
        read_server_keys(os.path.abspath(config.join_keys), "-join_keys")
    if config.http_port is not None and config.http_keys is None:
        read_token(config)
    _check_writable("-http_jobs", config.http_jobs)
    if config.graph_tmp_dir is not None and not os.path.isdir(config.graph_tmp_dir):
        _check_writable("-graph_tmp_dir", config.graph_tmp_dir)  # one that exists may be read-only, with its entries
    problems: list[str] = []
    for folder in filter(None, (config.auth_keys, config.join_keys)):
        AllowedKeys(os.path.abspath(folder), warn=problems.append).read()
    return problems


def check_files_of_model(config: ServerConfig, model: ModelConfig, warn: Callable[[str], None]) -> None:
    """Reads the files of ``-drift_reference`` and ``-quantization_ranges``.

    The space of the vectors is not compared: its digest needs the weights.

    Raises:
        ConfigError: a file cannot be read, or is invalid.
    """
    read_drift(config, model, warn)
    path, size = ranges_path(config), config.vector_size(model)
    if path is not None and all(len(least) != size for least, _ in read_ranges(path).values()):
        warn(
            f"the ranges of {path} are not those of this server, whose vectors have {size} numbers: run "
            "bert-serving-calibrate again with this server"
        )


def _check_writable(option: str, folder: str | None) -> None:
    """Checks that a folder can be written to, or created.

    Raises:
        ConfigError: it cannot.
    """
    if folder is None:
        return
    found = os.path.abspath(folder)
    while not os.path.lexists(found):
        found = os.path.dirname(found)
    if os.path.isdir(found) and os.access(found, os.W_OK | os.X_OK):
        return
    reason = os.strerror(errno.EACCES if os.path.isdir(found) else errno.ENOTDIR)
    raise ConfigError(f"{option} {folder} cannot be used ({reason}: {found}): name a folder that can be written to")
