"""Drives fastembed in this process with an ONNX file of the same weights: MODEL FILE.onnx TEXTS."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType
from loop import read_texts, run

folder, file, texts = sys.argv[1:]
size = json.loads((Path(folder) / "config.json").read_text("utf-8"))["hidden_size"]
TextEmbedding.add_custom_model(
    model="same", pooling=PoolingType.MEAN, normalization=False, sources=ModelSource(hf="same"), dim=size,
    model_file=f"onnx/{file}",
)  # fmt: skip
model = TextEmbedding("same", specific_model_path=folder)
run(lambda some: np.stack(list(model.embed(some))), read_texts(texts))
