"""Exports models to the formats of the peers, once, in the cache folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

from install import OFFLINE, interpreter
from original import CACHE

from texts import shuffled_sentences

DRIVERS = Path(__file__).resolve().parent / "drivers"
#: Format, the environment that has its exporter, and the script in ``DRIVERS``. Each script writes fp32 and int8.
EXPORTERS = {
    "onnx": ("sentence-transformers", "export_onnx.py"),
    "optimum": ("sentence-transformers-onnx", "export_optimum.py"),
    "openvino": ("openvino", "export_openvino.py"),
    "ctranslate2": ("ctranslate2", "export_ctranslate2.py"),
    "gguf": ("llama.cpp", "export_gguf.py"),
}


def export(kind: str, hf: str) -> Path:
    """Exports the model folder ``hf`` once; returns the folder of the files.

    Args:
        kind: a key of ``EXPORTERS``.
        hf: folder of the model; the last part of its path is its name in the cache.

    Raises:
        InstallError: the environment of the exporter cannot be installed.
        subprocess.CalledProcessError: the export failed.
    """
    environment, script = EXPORTERS[kind]
    folder = CACHE / f"{kind}-{Path(hf).name}"
    if not (folder / ".complete").is_file():
        python = interpreter(environment, None)
        shutil.rmtree(folder, ignore_errors=True)
        texts = CACHE / "calibration.json"
        texts.write_text(json.dumps(shuffled_sentences()[:256]), "utf-8")
        command = [python, str(DRIVERS / script), hf, str(folder), str(texts)]
        subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **OFFLINE})
        (folder / ".complete").touch()
    return folder
