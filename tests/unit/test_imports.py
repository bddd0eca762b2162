"""Tests which modules an import loads."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

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


def test_tensorflow_is_imported_in_parts_and_without_keras() -> None:
    if find_spec("tensorflow") is None or find_spec("keras") is None:
        pytest.skip("TensorFlow and Keras are not installed")
    code = """
import sys
from importlib.util import find_spec
from bert_serving.server.model.tensorflow_import import import_modules, import_tensorflow
import_modules("this test", "eager.context", "training.py_checkpoint_reader")
print(*{name for name in sys.modules if name.startswith(("tensorflow._api", "tensorflow.python.ops.math_ops"))})
import tensorflow
tensorflow.constant  # imports the API, and leaves out Keras as the function does
assert import_tensorflow("this test") is tensorflow
assert float(tensorflow.constant(2.0) * 3) == 6, "eager, as after another import"
print(*{name.partition(".")[0] for name in sys.modules} & {"keras", "sklearn", "matplotlib"})
assert find_spec("keras") is not None  # as others see it
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "\n\n"


def test_the_client_imports_no_asyncio_before_its_first_use() -> None:
    code = """
import sys
from bert_serving.client import BertClient, ConcurrentBertClient
print(*{"asyncio", "ssl", "argparse", "msgspec"} & sys.modules.keys())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "\n"
