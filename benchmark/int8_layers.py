"""Measures quality and speed of int8 with some dense layers left in fp32.

    python benchmark/int8_layers.py
    python benchmark/int8_layers.py --model_dir /models/bert --pooling_layer -2

Quantizes all dense layers of the encoder except one kind, or except one layer. For each choice it reports Spearman's
correlation on the test split of the STS benchmark as in ``benchmark/quality.py``, the cosine to the fp32 vectors, and
the speed of the engine. Engines are measured alternately, ``--rounds`` times. The speed is that of the best round, with
its ratio to int8 without exceptions. Prints Markdown.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from dataclasses import replace
from typing import Any

import numpy as np
from quality import cosines, spearman

from bert_serving.server.benchmark.options import read_args
from bert_serving.server.config.server_config import ServerConfig
from bert_serving.server.engines.base import Device, EngineSpec
from bert_serving.server.engines.batch import Batch
from bert_serving.server.engines.onnx import engine as onnx
from bert_serving.server.engines.onnx import int8 as onnx_int8
from bert_serving.server.engines.onnx.graph import dense_fp32
from bert_serving.server.tokenization.factory import make_tokenizer
from bert_serving.server.worker.engine_spec import engine_spec
from heading import print_heading
from texts import sts_rows

KINDS = {
    "query, key, value": r"/attention/self/qkv$",
    "attention's output": r"/attention/output/dense$",
    "feed-forward, first": r"/intermediate/dense$",
    "feed-forward, second": r"layer_\d+/output/dense$",
}
BATCH = 256


class Chosen(onnx_int8.Int8):
    """Int8, except for scopes that match ``left_out``."""

    left_out: re.Pattern[str] | None = None

    def __call__(
        self, graph: Any, x: str, scope: str, kernel: np.ndarray, bias: np.ndarray, rows: str = "t"
    ) -> tuple[str, np.ndarray]:
        if self.left_out is not None and self.left_out.search(scope):
            return dense_fp32(graph, x, scope, kernel, bias)
        return super().__call__(graph, x, scope, kernel, bias, rows)


def engine_without(spec: EngineSpec, left_out: str | None) -> onnx.OnnxEngine:
    """Returns an int8 engine that keeps matching layers in fp32; deletes its files."""
    Chosen.left_out = None if left_out is None else re.compile(left_out)
    with tempfile.TemporaryDirectory(prefix="bert-serving-int8-") as folder:
        # The cache key does not contain the choice, so each choice has its own folder. The files stay mapped.
        return onnx.create(replace(spec, cache_dir=folder), Device("cpu"))


def encode(engine: onnx.OnnxEngine, batches: list[Batch]) -> tuple[np.ndarray, float]:
    """Returns the vectors of all batches, and the seconds."""
    start = time.perf_counter()
    found = [engine.encode(batch) for batch in batches]
    return np.concatenate(found), time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_dir", help="folder of a model; default: the embedded all-MiniLM-L6-v2")
    parser.add_argument("--pooling_layer", type=int, default=-1)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()

    rows = sts_rows()
    sentences = [row[key] for key in ("sentence1", "sentence2") for row in rows]
    gold = np.array([float(row["score"]) for row in rows])
    model_dir = ["-model_dir", args.model_dir] if args.model_dir else []
    flags = [*model_dir, "-cpu", "-engine", "onnx", "-pooling_layer", str(args.pooling_layer), "-max_seq_len", "128"]
    config = ServerConfig.from_args(read_args(flags))
    model = config.read_model()
    tokenizer = make_tokenizer(config, model)
    # Sorted by length, as by the scheduler.
    order = np.argsort([len(text) for text in sentences], kind="stable")
    batches = []
    for start in range(0, len(order), BATCH):
        tokens = tokenizer.encode([sentences[index] for index in order[start : start + BATCH]])
        zeros, ones = np.zeros_like(tokens.input_ids), np.ones_like(tokens.input_ids)
        batches.append(Batch(tokens.input_ids, zeros, ones, tokens.lengths))

    onnx_int8.Int8 = Chosen  # type: ignore[misc]
    spec = engine_spec(config, {"cache_dir": "", "dtype": "int8"})
    layers = range(max(spec.layers) + 1)
    choices: dict[str, str | None] = {"nothing": None, **KINDS}
    choices |= {f"layer {layer + 1} of {len(layers)}": rf"layer_{layer}/" for layer in layers}
    with tempfile.TemporaryDirectory(prefix="bert-serving-fp32-") as folder:
        exact = onnx.create(replace(spec, dtype="fp32", cache_dir=folder), Device("cpu"))
    made = {"all (fp32)": exact} | {name: engine_without(spec, left_out) for name, left_out in choices.items()}

    seconds: dict[str, list[float]] = {name: [] for name in made}
    vectors: dict[str, np.ndarray] = {}
    back = np.argsort(order)
    for _ in range(args.rounds):
        for name, engine in made.items():
            found, took = encode(engine, batches)
            vectors[name] = found[back].astype(np.float32)
            seconds[name].append(took)

    print_heading(f"{args.model_dir or 'all-MiniLM-L6-v2'}, layer {args.pooling_layer}, mean; {len(rows)} pairs.")
    print("| left in fp32 | Spearman | mean cosine to fp32 | worst | sentences/s | of int8's |")
    print("|---|---:|---:|---:|---:|---:|")
    for name in made:
        cosine = cosines(vectors[name], vectors["all (fp32)"])
        correlation = spearman(cosines(*np.split(vectors[name], 2)), gold)
        rate, ratio = len(sentences) / min(seconds[name]), min(seconds["nothing"]) / min(seconds[name])
        print(f"| {name} | {correlation:.4f} | {cosine.mean():.4f} | {cosine.min():.4f} | {rate:,.0f} | {ratio:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
