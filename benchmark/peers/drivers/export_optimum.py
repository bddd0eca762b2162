"""Writes a Hugging Face BERT as folders ``fp32`` and ``int8`` with ONNX, as optimum makes it: MODEL OUT.

``model_optimized.onnx`` is what sentence-transformers writes by ``export_optimized_onnx_model(model, "O2", ...)``, and
``model_quantized_optimized.onnx`` by ``export_dynamic_quantized_onnx_model(model, "avx512_vnni", ...)``. The names are
those of infinity-emb's cache of optimized models: it cannot read other ONNX files from a folder with this optimum.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from optimum.onnxruntime import ORTModelForFeatureExtraction, ORTOptimizer, ORTQuantizer
from optimum.onnxruntime.configuration import AutoOptimizationConfig, AutoQuantizationConfig

folder, out = Path(sys.argv[1]), Path(sys.argv[2])
for name in ("fp32", "int8"):
    shutil.copytree(folder, out / name, ignore=shutil.ignore_patterns("*.safetensors", "*.bin", "*.onnx", "README.md"))
model = ORTModelForFeatureExtraction.from_pretrained(folder, export=True)
model.save_pretrained(out / "fp32" / "onnx")
ORTOptimizer.from_pretrained(model).optimize(AutoOptimizationConfig.O2(), save_dir=out / "fp32" / "onnx")
ORTQuantizer.from_pretrained(model).quantize(
    AutoQuantizationConfig.avx512_vnni(is_static=False),
    save_dir=out / "int8" / "onnx",
    file_suffix="quantized_optimized",
)
