"""Which systems are compared, and how each is started."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from models import onnx_model

DRIVERS = Path(__file__).resolve().parent / "drivers"
OURS = "this"


@dataclass(frozen=True, slots=True)
class Peer:
    """One line of the table.

    Attributes:
        environment: whose packages it runs with, see ``install.py``.
        how: ``served``, ``in process`` or ``loop``.
        driver: script in ``drivers`` and its arguments; ``{port}`` is replaced, the path of the texts added.
        server: command of its server; None if the driver computes itself.
        ready: what the server logs when it can be asked.
        share: part of the work that it gets, where all would take minutes.
        max_seq_len: longest sequence that it does not cut.
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

    @property
    def is_ours(self) -> bool:
        return self.environment == OURS

    @property
    def is_full_precision(self) -> bool:
        return self.dtype == "fp32"


def of_model(hf: str, tf1: str | None) -> Iterator[Peer]:
    """All systems for one model, their environments still to be made.

    ``{bin}`` stands for where their programs are, ``{onnx}`` for exports.
    """
    if tf1:
        for length, share in ((25, 1.0), (128, 0.125)):
            yield _bert_server(
                f"bert-serving-server 1.10.0, max_seq_len {length}", "original", "fp32", length,
                ("{bin}/bert-serving-start", "-model_dir", tf1), share,
            )  # fmt: skip
    for dtype, word in (("fp32", "float32"), ("bf16", "bfloat16")):
        yield Peer(
            "sentence-transformers", "sentence-transformers", "in process", dtype,
            ("sentence_transformer.py", hf, word),
        )  # fmt: skip
    for dtype, word in (("fp32", "float32"), ("bf16", "bfloat16")):
        server = (
            "{bin}/infinity_emb", "v2", "--model-id", hf, "--served-model-name", "model", "--device", "cpu",
            "--engine", "torch", "--dtype", word, "--host", "127.0.0.1", "--port", "{port}",
            "--no-model-warmup",
        )  # fmt: skip
        yield Peer(
            "infinity-emb", "infinity", "served", dtype, ("openai_http.py", "{port}"), server,
            "Application startup complete",
        )  # fmt: skip
    for dtype in ("fp32", "int8"):
        yield Peer(
            "ONNX Runtime", "sentence-transformers", "loop", dtype,
            ("onnx_loop.py", f"{{onnx}}/{dtype}.onnx", f"{hf}/tokenizer.json"),
        )  # fmt: skip
    ours = (("fp32", "auto"), ("bf16", "auto"), ("int8", "onnx"))
    for dtype, engine in ours:
        yield Peer("this, engine alone", OURS, "loop", dtype, ("engine_loop.py", hf, engine, dtype))
    for dtype, engine in ours:
        yield _bert_server(
            "this", OURS, dtype, 128,
            (sys.executable, "-m", "bert_serving.server", "-model_dir", hf, "-engine", engine, "-dtype", dtype), 1.0,
        )  # fmt: skip


def _bert_server(name: str, environment: str, dtype: str, length: int, start: tuple[str, ...], share: float) -> Peer:
    flags = ("-cpu", "-num_worker", "1", "-pooling_layer", "-1", "-max_seq_len", str(length))
    ports = ("-port", "{port}", "-port_out", "{next_port}")
    return Peer(
        name, environment, "served", dtype, ("bert_client.py", "{port}"), (*start, *flags, *ports),
        "all set, ready to serve request!", share, length,
    )  # fmt: skip


def filled(words: tuple[str, ...], python: str, port: int, hf: str, model: str) -> list[str]:
    """A command of a peer with everything in its place."""
    values = {"bin": str(Path(python).parent), "port": str(port), "next_port": str(port + 1)}
    if any("{onnx}" in word for word in words):
        values["onnx"] = str(onnx_model(python, hf, model))
    return [word.format(**values) for word in words]
