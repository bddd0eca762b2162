"""Missing packages are named before the model is prepared, all at once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bert_serving.server.cli.check import check
from bert_serving.server.config.server_config import ServerConfig
from bert_serving.server.errors import StartError
from bert_serving.server.supervisor.packages import _ENGINES, _HTTP, require_packages
from model_folders import TINY

ROOT = Path(__file__).resolve().parents[2]
ENGINES = ["onnxruntime", "onnx", "tensorflow", "torch"]


@pytest.mark.parametrize(
    ("options", "absent", "reasons", "extras"),
    [
        ({}, [], [], None),
        ({}, ["torch", "onnxruntime"], [], None),
        ({}, [*_HTTP, "tokenizers", "pyarrow"], [], None),
        ({"engine": "zeros"}, ENGINES, [], None),
        ({"engine": "my.engine"}, ENGINES, [], None),
        ({"num_worker": 0, "join_port": 6000}, ENGINES, [], None),
        ({"engine": "onnx"}, ["tensorflow"], [], None),
        ({"http_port": 8125}, ["flask", "orjson"], ["flask, orjson (for -http_port)"], "http"),
        ({"engine": "onnx"}, ["onnx"], ["onnx (for -engine onnx)"], "onnx"),
        ({"engine": "tensorflow", "cpu": True}, ["tensorflow"], ["tensorflow (for -engine"], "tensorflow-cpu"),
        ({"engine": "torch", "http_port": 8125}, [*ENGINES, "flask"],
         ["flask (for -http_port)", "torch (for -engine torch)", "tensorflow (to read "], "http,torch,tensorflow-cpu"),
        ({"dtype": "int8"}, ["onnx"], ["onnx (for -engine auto)"], "onnx"),
        ({}, ENGINES, ["onnxruntime, onnx (for -engine auto)"], "onnx,tensorflow-cpu"),
    ],
)  # fmt: skip
def test_missing_packages_are_named_with_one_command(
    options: dict[str, Any], absent: list[str], reasons: list[str], extras: str | None
) -> None:
    config = ServerConfig.from_dict({"model_dir": TINY, **options})
    model = config.read_model()
    if extras is None:
        require_packages(config, model, lambda name: name not in absent)
        return
    with pytest.raises(StartError) as caught:
        require_packages(config, model, lambda name: name not in absent)
    assert str(caught.value).endswith(f": pip install 'bert-serving-server[{extras}]'")
    for reason in reasons:
        assert reason in str(caught.value)
    known = re.findall(r"^([\w-]+) = \[", (ROOT / "server" / "pyproject.toml").read_text(), re.M)
    assert set(extras.split(",")) <= set(known)


def test_each_module_belongs_to_its_extra() -> None:
    text = (ROOT / "server" / "pyproject.toml").read_text()
    for extra, modules in {"http": _HTTP, **_ENGINES}.items():
        (listed,) = re.findall(rf"^{extra} = (\[.*?^\]|\[.*?\]$|\[.*?\] )", text, re.M | re.S)
        for name in modules:
            assert f'"{name.replace("_", "-")}>=' in listed
    assert len(_HTTP) == len(re.findall(r'"[\w-]+>=', re.findall(r"^http = \[.*?^\]", text, re.M | re.S)[0]))


def test_a_server_names_what_is_missing_before_it_reads_weights(tmp_path: Path) -> None:
    absent = ("flask", "onnxruntime")
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({absent}))\n")
    done = subprocess.run(
        [sys.executable, "-m", "bert_serving.server", "-model_dir", TINY, "-engine", "onnx", "-http_port", "18125",
         "-port", "15555", "-port_out", "15556", "-graph_tmp_dir", tmp_path / "cache"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])},
        capture_output=True,
        text=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 3
    (error,) = (line for line in done.stderr.splitlines() if " E:" in line)
    assert error.endswith(
        "packages are missing: flask (for -http_port); onnxruntime (for -engine onnx). "
        "Install them: pip install 'bert-serving-server[http,onnx]'"
    )
    assert not (tmp_path / "cache").exists()


def test_check_names_missing_packages(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "flask", None)
    assert check(ServerConfig.from_dict({"model_dir": TINY, "http_port": 8125})) == 3
    assert "pip install 'bert-serving-server[http]'" in capsys.readouterr().err
