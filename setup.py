"""Installs client and server from this checkout: ``pip install .``

The two are distributions of their own, in ``client/`` and ``server/``; this one only brings both.
"""

import re
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).resolve().parent
VERSION = re.findall(r'"(.+)"', (HERE / "server" / "bert_serving" / "server" / "version.py").read_text("utf-8"))[-1]

setup(
    name="bert-as-service",
    version=VERSION,
    description="A service that turns sentences into BERT vectors, and its client",
    license="MIT",
    python_requires=">=3.10",
    packages=[],
    py_modules=[],
    install_requires=[
        f"bert-serving-client @ {(HERE / 'client').as_uri()}",
        f"bert-serving-server @ {(HERE / 'server').as_uri()}",
    ],
    extras_require={
        extra: [f"bert-serving-server[{extra}] @ {(HERE / 'server').as_uri()}"]
        for extra in ("tensorflow", "tensorflow-cpu", "tensorflow-gpu", "onnx", "torch", "http")
    },
)
