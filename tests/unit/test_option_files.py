"""``-check`` refuses each file and folder of an option that the start would refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bert_serving.server.cli.check import check
from bert_serving.server.config.options import PATHS
from bert_serving.server.config.server_config import ServerConfig
from bert_serving.server.http.bearer_token import TOKEN_VARIABLE
from model_folders import TINY

#: Options that the option needs.
NEEDS = {
    "http_token_file": {"http_port": 8125},
    "http_keys": {"http_port": 8125},
    "http_jobs": {"http_port": 8125},
    "join_keys": {"join_port": 5557},
}
FILES = ("http_token_file", "http_keys", "drift_reference", "quantization_ranges")
#: Folders that exist, and folders that the server creates.
FOLDERS, CREATED = ("model_dir", "tuned_model_dir", "base", "auth_keys", "join_keys"), ("http_jobs", "graph_tmp_dir")


def run(option: str, path: Path | str) -> int:
    values = {"model_dir": str(TINY), "engine": "zeros", "cpu": True, **NEEDS.get(option, {}), option: str(path)}
    return check(ServerConfig.from_dict(values))


def test_each_option_with_a_path_has_a_kind() -> None:
    assert sorted((*FILES, *FOLDERS, *CREATED)) == sorted(PATHS)


CASES = [
    *((option, kind) for option in FILES for kind in ("missing", "folder", "empty", "invalid")),
    *((option, kind) for option in FOLDERS for kind in ("missing", "file", "empty_folder")),
    *((option, kind) for option in CREATED for kind in ("file", "below_a_file")),
]


@pytest.mark.parametrize(("option", "kind"), CASES)
def test_refused(option: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = {
        "missing": tmp_path / "absent",
        "folder": tmp_path,
        "empty_folder": tmp_path / "folder",
        "file": tmp_path / "file",
        "empty": tmp_path / "empty",
        "invalid": tmp_path / "file",
        "below_a_file": tmp_path / "file" / "folder",
    }
    (tmp_path / "file").write_text("two\nlines")
    (tmp_path / "empty").write_text("")
    (tmp_path / "folder").mkdir()
    assert run(option, paths[kind]) == 3
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("refused: ")
    assert str(paths[kind]) in output.err
    assert output.err.count("\n") == 1


def test_a_secret_key_that_others_can_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "server.key_secret").write_text("")
    (tmp_path / "server.key_secret").chmod(0o644)
    for option in ("auth_keys", "join_keys"):
        assert run(option, tmp_path) == 3
        assert "can be read by other users; protect it with: chmod 600" in capsys.readouterr().err


def test_an_invalid_token_in_the_variable(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, " ")
    values = {"model_dir": str(TINY), "engine": "zeros", "cpu": True}
    assert check(ServerConfig.from_dict({**values, "http_port": 8125})) == 3
    assert f"refused: the variable {TOKEN_VARIABLE} is set, but is not one line" in capsys.readouterr().err
    assert check(ServerConfig.from_dict(values)) == 0  # only HTTP reads it


def test_files_of_another_model_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ranges = tmp_path / "ranges.json"
    space = {"texts": 2, "minimum": [0.0, 0.0], "maximum": [1.0, 1.0]}
    ranges.write_text(json.dumps({"format": "bert-serving quantization ranges 1", "spaces": {"s": space}}))
    assert run("quantization_ranges", ranges) == 0
    assert f"note: the ranges of {ranges} are not those of this server" in capsys.readouterr().out


def test_a_folder_that_does_not_exist_is_not_created(tmp_path: Path) -> None:
    for option in CREATED:
        assert run(option, tmp_path / "new" / "folder") == 0
    assert list(tmp_path.iterdir()) == []
