"""The unmodified client of version 1.10.0 with this server, on Python 3 and 2.7."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest

from servers import Server
from version_1 import V1_CONFIG_KEYS, V1_GROUPS, V1_SPACED_KEYS, V1_STATISTIC

LEGACY = Path(__file__).resolve().parents[1] / "legacy"


def interpreters() -> list[object]:
    py2 = LEGACY / "py2" / "PYTHON"
    no_py2 = pytest.mark.skipif(not py2.exists(), reason="no Python 2.7 on this machine")
    return [
        pytest.param(sys.executable, "py3", id="python3"),
        pytest.param(py2.read_text() if py2.exists() else "", "py2", id="python2.7", marks=no_py2),
    ]


@lru_cache
def finished(interpreter: str, folder: str, server: Server) -> tuple[str, str]:
    """Runs the script once for all tests of an interpreter; returns its output and its error."""
    command = [interpreter, str(LEGACY / "exercise.py"), str(server.port), str(server.port_out)]
    env = {**os.environ, "PYTHONPATH": str(LEGACY / folder)}
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired as error:
        return "", f"{error}\n{error.stderr!r}\n{server.log}"
    return done.stdout, done.stderr + server.log if done.returncode else ""


def run(interpreter: str, folder: str, server: Server) -> dict[str, object]:
    printed, problem = finished(interpreter, folder, server)
    assert not problem, problem
    return json.loads(printed.splitlines()[-1])  # type: ignore[no-any-return]


@pytest.mark.parametrize(("interpreter", "folder"), interpreters())
def test_all_features_of_the_old_client(interpreter: str, folder: str, server: Server) -> None:
    seen = run(interpreter, folder, server)
    assert seen["python"] == int(folder[-1])
    assert seen["shape"] == [3, 32]
    assert seen["dtype"] == "float32"
    golden = json.loads((LEGACY.parent / "data/golden/tiny/mean_default.json").read_text())
    assert "First do it" in golden["parts"]["plain"]["texts"]
    assert seen["unicode"] == [3, 32]
    assert seen["pair"] == [1, 32]
    assert seen["tokenized"] == [2, 32]
    assert seen["tokens"] == [["[CLS]", "hello", "world", "[SEP]"], ["[CLS]", "un", "##aff", "##able", "[SEP]"]]
    assert seen["fetched"] == [1, 3, 20]
    assert seen["fetch_all"] == [4, 1, 30]
    assert seen["concat"] == [5, 32]
    assert seen["async"] == [1, 2, 3, 4, 5]
    assert seen["async_some"] == 3
    assert seen["same_vector"]
    assert seen["as_list"] == 32
    assert seen["multicast"] == [[7, 32]] * 3
    assert seen["prefix_leak"] is False
    assert seen["concurrent"] == [1, 32]


@pytest.mark.parametrize(("interpreter", "folder"), interpreters())
def test_status_has_every_key_of_the_original(interpreter: str, folder: str, server: Server) -> None:
    seen = run(interpreter, folder, server)
    for keys in (seen["config_keys"], seen["status_keys"]):
        missing = {*V1_CONFIG_KEYS, *V1_SPACED_KEYS} - set(keys)  # type: ignore[call-overload]
        assert not missing
    assert "statistic" in seen["status_keys"]  # type: ignore[operator]
    wanted = {*V1_STATISTIC} | {
        f"{prefix}_{group}" for group in V1_GROUPS for prefix in ("avg", "min", "max", "num_min", "num_max")
    }
    assert not wanted - set(seen["statistic"])  # type: ignore[call-overload]


@pytest.mark.parametrize(("interpreter", "folder"), interpreters())
def test_errors_are_readable_exceptions_in_the_old_client(interpreter: str, folder: str, server: Server) -> None:
    seen = run(interpreter, folder, server)
    errors: dict[str, str] = seen["errors"]  # type: ignore[assignment]
    assert errors["number"].startswith("TypeError")
    assert "item 1 must be a string" in errors["number"]
    assert "must be a JSON list" in errors["object"]
    assert seen["after_errors"] == [1, 32]
