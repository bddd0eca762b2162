"""Defines the compared cross-encoders and their commands."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace

from peers import OURS, Peer, bert_server, engine_name, infinity, limits, sentence_transformers


def of_reranker(hf: str, features: frozenset[str] | None = None) -> Iterator[Peer]:
    """Yields all systems for one cross-encoder; their environments may not exist yet."""
    for peer in sentence_transformers("cross_encoder.py", hf):
        yield replace(peer, max_seq_len=512)
    ranks = {"driver": ("rerank_http.py", "{port}"), "max_seq_len": 512}
    for dtype, word in (("fp32", "float32"), ("bf16", "bfloat16")):
        yield replace(infinity(hf, dtype, "torch", "--dtype", word), **ranks)
    for dtype in ("fp32", "int8"):
        yield replace(infinity(f"{{optimum}}/{dtype}", dtype, "optimum"), **ranks)
    yield from limits(hf, "cls", 512)
    for dtype, engine in (("fp32", "auto"), ("bf16", "auto"), ("int8", "onnx")):
        start = (
            sys.executable, "-m", "bert_serving.server", "-model_dir", hf, "-engine", engine, "-dtype", dtype,
            "-task", "rerank", "-cpu", "-num_worker", "1",
        )  # fmt: skip
        backend = engine_name(engine, dtype, features, hf)
        peer = bert_server("this", OURS, dtype, 512, start, 1.0, backend)
        yield replace(peer, driver=("bert_reranker.py", "{port}"))
        if dtype == "fp32":
            server = (*(peer.server or ()), "-http_port", "{http_port}")
            yield replace(peer, name="this, HTTP", driver=("rerank_http.py", "{http_port}"), server=server)
