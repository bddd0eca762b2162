"""``-completion``: real shells complete flags and values of the commands."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("shtab")

ROOT = Path(__file__).resolve().parents[2]
#: Where each command of both distributions begins: "bert-serving-start": ("bert_serving.server.entry_points", "start").
COMMANDS = {
    command: (module, function)
    for name in ("client", "server")
    for command, module, function in re.findall(
        r'^(bert-serving-\w+) = "(.+):(.+)"', (ROOT / name / "pyproject.toml").read_text(encoding="utf-8"), re.M
    )
}
bash = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")


def run(command: str, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    module, function = COMMANDS[command]
    code = f"import sys; from {module} import {function}; sys.exit({function}())"
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=60,
    )


def script(command: str, shell: str) -> str:
    done = run(command, "-completion", shell)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the completion of each command for bash."""
    folder = tmp_path_factory.mktemp("completion")
    for command in COMMANDS:
        (folder / command).write_text(script(command, "bash"))
    return folder


#: What bash does when TAB is pressed behind the words: calls the function that `complete` has registered.
PRESS_TAB = """
source "$1/$2"
COMP_WORDS=("${@:2}"); COMP_CWORD=$(($# - 2)); COMP_LINE="${*:2}"; COMP_POINT=${#COMP_LINE}
registered=$(complete -p "$2"); [[ $registered =~ -F\\ ([^ ]+) ]]
"${BASH_REMATCH[1]}" "$2" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def tab(scripts: Path, *words: str, cwd: Path | None = None) -> set[str]:
    """What bash offers for the last of the words."""
    done = subprocess.run(
        ["bash", "--norc", "-c", PRESS_TAB, "bash", str(scripts), *words],
        cwd=cwd,
        env={**os.environ, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr, done.stderr
    return set(done.stdout.split())


@bash
@pytest.mark.parametrize(
    ("command", "start", "flags"),
    [
        ("bert-serving-start", "-model", {"-model", "-model_dir"}),
        ("bert-serving-start", "--model", {"--model", "--model-dir"}),
        ("bert-serving-start", "-pool", {"-pooling_layer", "-pooling_strategy"}),
        ("bert-serving-start", "-port_", {"-port_in", "-port_data", "-port_out", "-port_result"}),
        ("bert-serving-benchmark", "-test_max", {"-test_max_seq_len", "-test_max_batch_size"}),
        ("bert-serving-terminate", "-t", {"-timeout"}),
        ("bert-serving-encode", "-res", {"-resume"}),
        ("bert-serving-keygen", "-comp", {"-completion"}),
    ],
)
def test_flags(scripts: Path, command: str, start: str, flags: set[str]) -> None:
    assert tab(scripts, command, start) == flags


@bash
def test_flags_behind_other_flags(scripts: Path) -> None:
    assert tab(scripts, "bert-serving-start", "-cpu", "-pooling_layer", "-4", "-3", "-num_w") == {"-num_worker"}


@bash
def test_values(scripts: Path) -> None:
    start = "bert-serving-start"
    assert tab(scripts, start, "-dtype", "") == {"auto", "fp32", "bf16", "fp16", "int8"}
    assert {"auto", "tensorflow", "onnx"} <= tab(scripts, start, "-cpu", "-engine", "")
    assert tab(scripts, start, "-pooling_strategy", "REDUCE_M") == {"REDUCE_MAX", "REDUCE_MEAN", "REDUCE_MEAN_MAX"}
    assert tab(scripts, "bert-serving-encode", "-format", "n") == {"npy"}


@bash
def test_folders_and_files(scripts: Path, tmp_path: Path) -> None:
    (tmp_path / "uncased").mkdir()
    (tmp_path / "until.txt").touch()
    assert tab(scripts, "bert-serving-start", "-model_dir", "un", cwd=tmp_path) == {"uncased"}
    assert tab(scripts, "bert-serving-encode", "un", cwd=tmp_path) == {"uncased", "until.txt"}


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
@pytest.mark.parametrize("command", COMMANDS)
def test_zsh_reads_it(command: str) -> None:
    done = subprocess.run(["zsh", "-f", "-n"], input=script(command, "zsh"), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "shtab.py").write_text("raise ModuleNotFoundError('no shtab')")
    done = run("bert-serving-encode", "-completion", "bash", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "pip install shtab" in done.stderr
    assert "Traceback" not in done.stderr
