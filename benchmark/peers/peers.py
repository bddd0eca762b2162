"""Defines the compared systems and their commands."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from install import INFINITY, SENTENCE_TRANSFORMERS
from models import onnx_model, optimum_model

from bert_serving.server import engines

OURS = "this"
#: Systems with the same purpose that are not measured, and the reasons.
NOT_MEASURED = (
    "text-embeddings-inference (a Rust build or a container, no package for Python), vLLM and SGLang (their packages "
    "are made for GPUs), Triton and OpenVINO Model Server (containers), sentence-transformers with OpenVINO (not tried)"
)


@dataclass(frozen=True, slots=True)
class Peer:
    """One row of the table.

    Attributes:
        environment: environment of its packages, see ``install.py``.
        how: ``served``, ``in process`` or ``loop``.
        driver: script in ``drivers`` and its arguments; ``{port}`` is replaced, the path of the texts is appended.
        server: command of its server; None if the driver computes.
        ready: log line of a server that is ready.
        share: fraction of the work, for systems that would take minutes.
        max_seq_len: maximum number of tokens without truncation.
        backend: library that computes the model, if the name does not contain it.
    """

    name: str
    environment: str
    how: str
    dtype: str
    driver: tuple[str, ...]
    server: tuple[str, ...] | None = None
    ready: str = ""
    share: float = 1.0
    max_seq_len: int = 128
    backend: str = ""

    @property
    def label(self) -> str:
        """Name in tables."""
        return f"{self.name} ({self.backend})" if self.backend else self.name

    @property
    def is_ours(self) -> bool:
        return self.environment == OURS

    @property
    def is_full_precision(self) -> bool:
        return self.dtype == "fp32"


def of_model(hf: str, tf1: str | None, features: frozenset[str] | None = None) -> Iterator[Peer]:
    """Yields all systems for one model; their environments may not exist yet.

    ``{bin}`` stands for the folder of their programs, ``{onnx}`` and ``{optimum}`` for exports.
    """
    if tf1:
        for length, share in ((25, 1.0), (128, 0.125)):
            yield _bert_server(
                f"bert-serving-server 1.10.0, max_seq_len {length}", "original", "fp32", length,
                ("{bin}/bert-serving-start", "-model_dir", tf1), share, "tensorflow",
            )  # fmt: skip
    for dtype, word in (("fp32", "float32"), ("bf16", "bfloat16")):
        yield Peer(
            f"sentence-transformers {SENTENCE_TRANSFORMERS['torch']}", "sentence-transformers", "in process", dtype,
            ("sentence_transformer.py", hf, word), backend="torch",
        )  # fmt: skip
    for dtype, file, backend in (
        ("fp32", "model.onnx", "onnx"),
        ("fp32", "model_optimized.onnx", "onnx O2"),
        ("int8", "model_quantized_optimized.onnx", "onnx"),
    ):
        yield Peer(
            f"sentence-transformers {SENTENCE_TRANSFORMERS['onnx']}", "sentence-transformers-onnx", "in process", dtype,
            ("sentence_transformer.py", f"{{optimum}}/{dtype}", file), backend=backend,
        )  # fmt: skip
    for dtype, word in (("fp32", "float32"), ("bf16", "bfloat16")):
        yield _infinity(hf, dtype, "torch", "--dtype", word)
    for dtype in ("fp32", "int8"):
        yield _infinity(f"{{optimum}}/{dtype}", dtype, "optimum", "--pooling-method", "mean")
    for dtype in ("fp32", "int8"):
        yield Peer(
            "ONNX Runtime", "sentence-transformers", "loop", dtype,
            ("onnx_loop.py", f"{{onnx}}/{dtype}.onnx", f"{hf}/tokenizer.json"),
        )  # fmt: skip
    ours = (("fp32", "auto"), ("bf16", "auto"), ("int8", "onnx"))
    for dtype, engine in ours:
        driver = ("engine_loop.py", hf, engine, dtype)
        yield Peer("this, engine alone", OURS, "loop", dtype, driver, backend=_engine(engine, dtype, features))
    for dtype, engine in ours:
        yield _bert_server(
            "this", OURS, dtype, 128,
            (sys.executable, "-m", "bert_serving.server", "-model_dir", hf, "-engine", engine, "-dtype", dtype), 1.0,
            _engine(engine, dtype, features),
        )  # fmt: skip


def _engine(name: str, dtype: str, features: frozenset[str] | None) -> str:
    """Returns the engine that the server selects here; the name if none can run, so that the server reports why."""
    try:
        return engines.choose(name, "cpu", dtype, features)
    except engines.EngineUnavailable:
        return name


def _infinity(model: str, dtype: str, engine: str, *flags: str) -> Peer:
    server = (
        "{bin}/infinity_emb", "v2", "--model-id", model, "--served-model-name", "model", "--device", "cpu",
        "--engine", engine, *flags, "--host", "127.0.0.1", "--port", "{port}", "--no-model-warmup",
    )  # fmt: skip
    return Peer(
        f"infinity-emb {INFINITY}", "infinity", "served", dtype, ("openai_http.py", "{port}"), server,
        "Application startup complete", backend="onnx" if engine == "optimum" else engine,
    )  # fmt: skip


def _bert_server(
    name: str, environment: str, dtype: str, length: int, start: tuple[str, ...], share: float, backend: str
) -> Peer:
    flags = ("-cpu", "-num_worker", "1", "-pooling_layer", "-1", "-max_seq_len", str(length))
    ports = ("-port", "{port}", "-port_out", "{next_port}")
    return Peer(
        name, environment, "served", dtype, ("bert_client.py", "{port}"), (*start, *flags, *ports),
        "all set, ready to serve request!", share, length, backend,
    )  # fmt: skip


def filled(words: tuple[str, ...], python: str, port: int, hf: str, model: str) -> list[str]:
    """Returns a command with all placeholders replaced; missing exports are created."""
    values = {"bin": str(Path(python).parent), "port": str(port), "next_port": str(port + 1)}
    if any("{onnx}" in word for word in words):
        values["onnx"] = str(onnx_model(python, hf, model))
    if any("{optimum}" in word for word in words):
        values["optimum"] = str(optimum_model(python, hf, model))
    return [word.format(**values) for word in words]
