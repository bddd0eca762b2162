"""Drives sentence-transformers in this process: MODEL DTYPE TEXTS, or MODEL FILE.onnx TEXTS for its backend ONNX."""

from __future__ import annotations

import sys

from loop import read_texts, run
from sentence_transformers import SentenceTransformer

folder, what, texts = sys.argv[1:]
if what.endswith(".onnx"):
    options = {"provider": "CPUExecutionProvider", "file_name": what}
    model = SentenceTransformer(folder, device="cpu", backend="onnx", model_kwargs=options)
else:
    model = SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": what})
run(lambda sentences: model.encode(sentences, show_progress_bar=False), read_texts(texts))
