"""Drives a cross-encoder of sentence-transformers in this process: MODEL DTYPE PAIRS, or MODEL FILE.onnx PAIRS."""

from __future__ import annotations

import sys

from loop import read_texts, run
from sentence_transformers import CrossEncoder

folder, what, texts = sys.argv[1:]
if what.endswith(".onnx"):
    options = {"provider": "CPUExecutionProvider", "file_name": what}
    model = CrossEncoder(folder, device="cpu", backend="onnx", model_kwargs=options)
else:
    model = CrossEncoder(folder, device="cpu", model_kwargs={"dtype": what})
run(lambda pairs: model.predict(pairs, show_progress_bar=False)[:, None], read_texts(texts))
