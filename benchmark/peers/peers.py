"""Defines the compared systems and their commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from exports import DRIVERS, EXPORTERS, export
from install import CTRANSLATE2, FASTEMBED, INFINITY, SENTENCE_TRANSFORMERS, XLLAMACPP

from bert_serving.server import engines
from bert_serving.server.model.config import load_model_config

OURS = "this"
#: Flags of a server of vectors.
VECTORS = ("-pooling_layer", "-1")
#: Systems with the same purpose that are not measured, and the reasons.
NOT_MEASURED = (
    "text-embeddings-inference (a Rust build or a container, no package for Python), vLLM and SGLang (their packages "
    "are made for GPUs), Triton and OpenVINO Model Server (containers)"
)


@dataclass(frozen=True, slots=True)
class Peer:
    """One row of the table.

    Attributes:
        environment: environment of its packages, see ``install.py``.
        how: ``served``, ``in process``, ``loop``, or ``limit``: a part of the work that each program must do.
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


def of_model(
    hf: str, tf1: str | None, features: frozenset[str] | None = None, max_seq_len: int = 128
) -> Iterator[Peer]:
    """Yields all systems for one embedding model; their environments may not exist yet.

    ``{bin}`` stands for the folder of their programs, a key of ``exports.EXPORTERS`` in braces for an export.
    """
    for peer in _of_model(hf, tf1, features, max_seq_len):
        yield peer if peer.max_seq_len == 25 else replace(peer, max_seq_len=max_seq_len)


def sentence_transformers(driver: str, hf: str) -> Iterator[Peer]:
    """Yields sentence-transformers with PyTorch and with ONNX Runtime, in a process of its own that runs ``driver``."""
    for dtype, word in (("fp32", "float32"), ("bf16", "bfloat16")):
        yield Peer(
            f"sentence-transformers {SENTENCE_TRANSFORMERS['torch']}", "sentence-transformers", "in process", dtype,
            (driver, hf, word), backend="torch",
        )  # fmt: skip
    for dtype, file, backend in (
        ("fp32", "model.onnx", "onnx"),
        ("fp32", "model_optimized.onnx", "onnx O2"),
        ("int8", "model_quantized_optimized.onnx", "onnx"),
    ):
        yield Peer(
            f"sentence-transformers {SENTENCE_TRANSFORMERS['onnx']}", "sentence-transformers-onnx", "in process", dtype,
            (driver, f"{{optimum}}/{dtype}", file), backend=backend,
        )  # fmt: skip


def _of_model(hf: str, tf1: str | None, features: frozenset[str] | None, max_seq_len: int) -> Iterator[Peer]:
    if tf1:
        for length, share in ((25, 1.0), (128, 0.125)):
            yield bert_server(
                f"bert-serving-server 1.10.0, max_seq_len {length}", "original", "fp32", length,
                ("{bin}/bert-serving-start", "-model_dir", tf1, *VECTORS), share, "tensorflow",
            )  # fmt: skip
    yield from sentence_transformers("sentence_transformer.py", hf)
    for dtype, word in (("fp32", "float32"), ("bf16", "bfloat16")):
        yield infinity(hf, dtype, "torch", "--dtype", word)
    for dtype in ("fp32", "int8"):
        yield infinity(f"{{optimum}}/{dtype}", dtype, "optimum", "--pooling-method", "mean")
    yield from _others(hf, max_seq_len)
    for dtype in ("fp32", "int8"):
        yield Peer(
            "ONNX Runtime", "sentence-transformers", "loop", dtype,
            ("onnx_loop.py", f"{{onnx}}/{dtype}.onnx", f"{hf}/tokenizer.json", str(max_seq_len)),
        )  # fmt: skip
    ours = (("fp32", "auto"), ("bf16", "auto"), ("int8", "onnx"))
    for dtype, engine in ours:
        driver = ("engine_loop.py", hf, engine, dtype, str(max_seq_len))
        yield Peer("this, engine alone", OURS, "loop", dtype, driver, backend=engine_name(engine, dtype, features, hf))
    yield from limits(hf, "mean", max_seq_len)
    for dtype, engine in ours:
        yield bert_server(
            "this", OURS, dtype, max_seq_len,
            (sys.executable, "-m", "bert_serving.server", "-model_dir", hf, "-engine", engine, "-dtype", dtype,
             *VECTORS), 1.0, engine_name(engine, dtype, features, hf),
        )  # fmt: skip


def limits(hf: str, pooling: str, max_seq_len: int) -> Iterator[Peer]:
    """Yields the matrix products of a model alone; ``pooling`` is that of ``drivers/products.py``."""
    for dtype, library in (("fp32", "onnx"), ("fp32", "torch"), ("bf16", "torch"), ("int8", "onnx")):
        driver = ("products.py", hf, library, dtype, str(max_seq_len), pooling)
        yield Peer("matrix products alone", OURS, "limit", dtype, driver, max_seq_len=max_seq_len, backend=library)


def _others(hf: str, max_seq_len: int) -> Iterator[Peer]:
    for dtype, hint in (("fp32", "f32"), ("bf16", "bf16"), ("int8", "f32")):
        folder = "int8" if dtype == "int8" else "fp32"
        yield Peer(
            f"sentence-transformers {SENTENCE_TRANSFORMERS['torch']}", "openvino", "in process", dtype,
            ("sentence_transformer.py", f"{{openvino}}/{folder}", f"openvino:{hint}"), backend="openvino",
        )  # fmt: skip
    for dtype, file in (("fp32", "model.onnx"), ("int8", "model_quantized_optimized.onnx")):
        driver = ("fastembed_custom.py", f"{{optimum}}/{dtype}", file)
        yield Peer(f"fastembed {FASTEMBED}", "fastembed", "in process", dtype, driver, backend="onnx")
    if not _is_bert(hf):  # the exporters below write BERT only
        return
    for dtype, word in (("fp32", "float32"), ("int8", "int8")):
        driver = (
            "ctranslate2_encoder.py", f"{{ctranslate2}}/{dtype}", f"{hf}/tokenizer.json", word, str(max_seq_len),
        )  # fmt: skip
        yield Peer(f"CTranslate2 {CTRANSLATE2}", "ctranslate2", "in process", dtype, driver)
    for dtype in ("fp32", "int8"):
        server = ("{bin}/python", f"{DRIVERS}/llama_server.py", f"{{gguf}}/{dtype}.gguf", "{port}", str(max_seq_len))
        yield Peer(
            f"llama.cpp (xllamacpp {XLLAMACPP})", "llama.cpp", "served", dtype,
            ("openai_http.py", "{port}", "/v1/embeddings"), server,
            "ready to serve",
        )  # fmt: skip


def _is_bert(hf: str) -> bool:
    config = Path(hf) / "config.json"
    return not config.is_file() or json.loads(config.read_text("utf-8"))["model_type"] == "bert"


def engine_name(name: str, dtype: str, features: frozenset[str] | None, hf: str) -> str:
    """Returns the engine that the server selects here; the name if none can run, so that the server reports why."""
    needs = load_model_config(hf).features if Path(hf).is_dir() else frozenset()
    try:
        return engines.choose(name, "cpu", dtype, features, needs)
    except engines.EngineUnavailable:
        return name


def infinity(model: str, dtype: str, engine: str, *flags: str) -> Peer:
    server = (
        "{bin}/infinity_emb", "v2", "--model-id", model, "--served-model-name", "model", "--device", "cpu",
        "--engine", engine, *flags, "--host", "127.0.0.1", "--port", "{port}", "--no-model-warmup",
    )  # fmt: skip
    return Peer(
        f"infinity-emb {INFINITY}", "infinity", "served", dtype, ("openai_http.py", "{port}", "/embeddings"), server,
        "Application startup complete", backend="onnx" if engine == "optimum" else engine,
    )  # fmt: skip


def bert_server(
    name: str, environment: str, dtype: str, length: int, start: tuple[str, ...], share: float, backend: str
) -> Peer:
    flags = ("-cpu", "-num_worker", "1", "-max_seq_len", str(length))
    ports = ("-port", "{port}", "-port_out", "{next_port}")
    return Peer(
        name, environment, "served", dtype, ("bert_client.py", "{port}"), (*start, *flags, *ports),
        "all set, ready to serve request!", share, length, backend,
    )  # fmt: skip


def exports_of(words: tuple[str, ...]) -> list[str]:
    """Returns the keys of ``exports.EXPORTERS`` that a command has as placeholders."""
    return [kind for kind in EXPORTERS if any(f"{{{kind}}}" in word for word in words)]


def filled(words: tuple[str, ...], python: str, port: int, hf: str) -> list[str]:
    """Returns a command with all placeholders replaced; missing exports are created.

    Raises:
        InstallError, subprocess.CalledProcessError: an export failed.
    """
    ports = {"port": str(port), "next_port": str(port + 1), "http_port": str(port + 2)}
    exports = {kind: str(export(kind, hf)) for kind in exports_of(words)}
    return [word.format(bin=str(Path(python).parent), **ports, **exports) for word in words]
