"""Exports a Hugging Face model with optimum to folders ``fp32`` and ``int8`` of ONNX files: MODEL OUT.

A classifier is exported with its head.
``model_optimized.onnx`` equals the file of ``export_optimized_onnx_model(model, "O2", ...)`` of sentence-transformers,
and ``model_quantized_optimized.onnx`` that of ``export_dynamic_quantized_onnx_model(model, "avx512_vnni", ...)``. The
names are those of the cache of infinity-emb, which cannot read other ONNX files from a folder with this optimum.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from optimum.onnxruntime import (
    ORTModelForFeatureExtraction,
    ORTModelForSequenceClassification,
    ORTOptimizer,
    ORTQuantizer,
)
from optimum.onnxruntime.configuration import AutoOptimizationConfig, AutoQuantizationConfig

folder, out = Path(sys.argv[1]), Path(sys.argv[2])
for name in ("fp32", "int8"):
    shutil.copytree(folder, out / name, ignore=shutil.ignore_patterns("*.safetensors", "*.bin", "*.onnx", "README.md"))
has_head = "ForSequenceClassification" in (folder / "config.json").read_text("utf-8")
kind = ORTModelForSequenceClassification if has_head else ORTModelForFeatureExtraction
model = kind.from_pretrained(folder, export=True)
model.save_pretrained(out / "fp32" / "onnx")
ORTOptimizer.from_pretrained(model).optimize(AutoOptimizationConfig.O2(), save_dir=out / "fp32" / "onnx")
ORTQuantizer.from_pretrained(model).quantize(
    AutoQuantizationConfig.avx512_vnni(is_static=False),
    save_dir=out / "int8" / "onnx",
    file_suffix="quantized_optimized",
)
