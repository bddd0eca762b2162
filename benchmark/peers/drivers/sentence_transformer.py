"""sentence-transformers in this process: MODEL DTYPE TEXTS."""

from __future__ import annotations

import sys

from loop import read_texts, run
from sentence_transformers import SentenceTransformer

folder, dtype, texts = sys.argv[1:]
model = SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": dtype})
run(lambda sentences: model.encode(sentences, show_progress_bar=False), read_texts(texts))
