"""Tests which modules an import loads."""

from __future__ import annotations

import subprocess
import sys

import pytest

import bert_serving.client

CODE = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(f"bert_serving.server.{name}")
client = {name.removeprefix("bert_serving.client.") for name in sys.modules if name.startswith("bert_serving.client.")}
slow = {"asyncio", "ssl", "onnx", "onnxruntime", "tensorflow", "torch"} & sys.modules.keys()
print(*sorted(client & {"_client", "_asyncio", "_concurrent", "_transport"}), *sorted(slow))
"""


def test_processes_that_are_no_client_import_neither_it_nor_what_starts_slowly() -> None:
    processes = ("supervisor.supervisor", "ventilator.ventilator", "worker.worker", "sink.sink")
    done = subprocess.run([sys.executable, "-c", CODE, *processes], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "\n"


def test_every_public_name_of_the_client_can_be_imported() -> None:
    names: dict[str, object] = {}
    exec("from bert_serving.client import *", names)
    assert set(bert_serving.client.__all__) <= {*names, "__version__"}
    assert set(bert_serving.client.__all__) <= set(dir(bert_serving.client))
    with pytest.raises(AttributeError, match="'NoClient'"):
        bert_serving.client.NoClient  # noqa: B018
