"""Tests when a start finds the prepared model in the cache, without a process that prepares it."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from pathlib import Path

import pytest

from bert_serving.server.config.command_line import get_args_parser
from bert_serving.server.config.server_config import ServerConfig
from bert_serving.server.ipc.endpoints import Addresses
from bert_serving.server.supervisor.child import Child
from bert_serving.server.supervisor.preflight import make_workers, plan
from bert_serving.server.supervisor.prepared_model import PreparedModel
from model_folders import hf_tensors, write_hf
from preparation import prepare

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems verify the cache at each start")


class Start:
    """A start of a server, up to its processes."""

    def __init__(self, model_dir: Path, cache: Path, *args: str) -> None:
        argv = ["-model_dir", str(model_dir), "-graph_tmp_dir", str(cache), "-cpu", "-num_worker", "2", *args]
        config = ServerConfig.from_args(get_args_parser().parse_args(argv))
        self._prepared = PreparedModel(logging.getLogger(__name__))
        config, model, placements = plan(config, self._prepared, logging.getLogger(__name__))
        addresses = Addresses("", "", "", "", "")
        self._children = make_workers(config, addresses, placements, model, self._prepared, {})

    def run(self) -> list[Child]:
        """Returns the preparation processes that must run."""
        self._prepared.skip(self._children.values())
        self._prepared.close()
        return [child for child in self._children.values() if child.role == "prepare" and not child.is_finished]

    @property
    def workers(self) -> list[Child]:
        return [child for child in self._children.values() if child.role == "worker"]


@pytest.mark.parametrize("engine", ["onnx", "torch", "tensorflow"])
def test_a_prepared_model_needs_no_process(tmp_path: Path, engine: str) -> None:
    pytest.importorskip({"onnx": "onnxruntime"}.get(engine, engine))
    model, cache = write_hf(tmp_path / "model", hf_tensors()), tmp_path / "cache"
    assert [child.name for child in Start(model, cache, "-engine", engine).run()] == [f"prepare-{engine}-fp32"]
    prepare("-engine", engine, model_dir=model, cache=cache)
    start = Start(model, cache, "-engine", engine)
    assert not start.run()
    assert [child.options["prepared"]["head"] for child in start.workers] == [None, None]
    # another strategy shares the weights, at most
    assert engine == "torch" or Start(model, cache, "-engine", engine, "-pooling_strategy", "CLS_TOKEN").run()


@pytest.mark.parametrize("damage", ["model", "names", "weights", "list", "folder"])
def test_what_the_cache_lacks_is_prepared(tmp_path: Path, damage: str) -> None:
    pytest.importorskip("onnxruntime")
    model, cache = write_hf(tmp_path / "model", hf_tensors()), tmp_path / "cache"
    prepare("-engine", "onnx", model_dir=model, cache=cache)
    if damage == "model":
        with open(model / "model.safetensors", "r+b") as file:
            file.seek(-1, 2)
            file.write(b"\0")
    elif damage == "names":
        [names] = cache.glob("tensor-names-*/names.json")
        names.write_text(json.dumps(json.loads(names.read_text())[::-1]))
    elif damage == "weights":
        [weights] = cache.glob("onnx-*/weights.bin")
        weights.write_bytes(weights.read_bytes())
    elif damage == "list":
        (cache / "verified.json").unlink()
    else:
        shutil.rmtree(cache)
    assert Start(model, cache, "-engine", "onnx").run()


def test_engines_outside_the_package_always_prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "faults"))
    model = write_hf(tmp_path / "model", hf_tensors())
    assert Start(model, tmp_path / "cache", "-engine", "fault_engines.sound").run()
