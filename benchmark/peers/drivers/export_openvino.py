"""Exports a Hugging Face model to OpenVINO, folders ``fp32`` and ``int8``: MODEL OUT TEXTS.

int8 is quantized as by ``export_static_quantized_openvino_model`` of sentence-transformers: weights and activations, by
nncf, calibrated with 128 texts. That function downloads its texts; here they come from a file.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import nncf
import openvino
from optimum.intel import OVModelForFeatureExtraction
from transformers import AutoTokenizer

folder, out, texts = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(Path(sys.argv[3]).read_text("utf-8"))
for name in ("fp32", "int8"):
    shutil.copytree(folder, out / name, ignore=shutil.ignore_patterns("*.safetensors", "*.bin", "*.onnx", "README.md"))
model = OVModelForFeatureExtraction.from_pretrained(folder, export=True, compile=False)
model.save_pretrained(out / "fp32" / "openvino")
tokenizer = AutoTokenizer.from_pretrained(folder)
inputs = {port.get_any_name() for port in model.model.inputs}
rows = [
    {name: value for name, value in tokenizer(text, return_tensors="np", truncation=True).items() if name in inputs}
    for text in texts[:128]
]
quantized = nncf.quantize(model.model, nncf.Dataset(rows), model_type=nncf.ModelType.TRANSFORMER)
(out / "int8" / "openvino").mkdir()
openvino.save_model(quantized, out / "int8" / "openvino" / "openvino_model.xml", compress_to_fp16=False)
