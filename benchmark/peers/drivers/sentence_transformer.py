"""Drives sentence-transformers in this process: MODEL WHAT TEXTS.

WHAT is a dtype of PyTorch, the name of an ONNX file, or ``openvino:`` and its precision of inference.
"""

from __future__ import annotations

import sys

from loop import read_texts, run
from sentence_transformers import SentenceTransformer

folder, what, texts = sys.argv[1:]
if what.endswith(".onnx"):
    options = {"provider": "CPUExecutionProvider", "file_name": what}
    model = SentenceTransformer(folder, device="cpu", backend="onnx", model_kwargs=options)
elif what.startswith("openvino:"):
    options = {"ov_config": {"INFERENCE_PRECISION_HINT": what.partition(":")[2]}}
    model = SentenceTransformer(folder, device="cpu", backend="openvino", model_kwargs=options)
else:
    model = SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": what})
run(lambda sentences: model.encode(sentences, show_progress_bar=False), read_texts(texts))
