"""Converts a Hugging Face BERT to CTranslate2, folders ``fp32`` and ``int8``: MODEL OUT."""

from __future__ import annotations

import sys
from pathlib import Path

from ctranslate2.converters import TransformersConverter

folder, out = sys.argv[1], Path(sys.argv[2])
out.mkdir(parents=True, exist_ok=True)
for name, quantization in (("fp32", None), ("int8", "int8")):
    TransformersConverter(folder).convert(str(out / name), quantization=quantization, force=True)
