"""Measures the quality of each engine and dtype: Spearman's correlation on the test split of the STS benchmark.

    python benchmark/quality.py
    python benchmark/quality.py --only onnx --model_dir /models/bert --pooling_layer -2

A server encodes the sentences with the default model (or ``--model_dir``), for each engine and dtype that this machine
supports. The score of a pair is the cosine of its vectors. It is correlated with the human scores. The table also has
the worst cosine of a vector to that of the first row. Prints Markdown.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

import numpy as np

from bert_serving.client import BertClient
from bert_serving.server import engines
from bert_serving.server.benchmark.managed_server import ServerManager
from bert_serving.server.benchmark.options import read_args
from bert_serving.server.config.options import ServerConfig
from bert_serving.server.engines.base import EngineUnavailable
from bert_serving.server.errors import ServingError
from heading import print_heading
from texts import sts_rows

ENGINES = ("onnx", "tensorflow", "torch")
DTYPES = ("fp32", "bf16", "int8")


def ranks(values: np.ndarray) -> np.ndarray:
    """Returns the rank of each value, from 0; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means: np.ndarray = ends - (counts + 1) / 2
    return means[inverse]


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Returns Spearman's rank correlation of two arrays ``[n]``."""
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the cosines of the rows of two arrays ``[n, d]``."""
    products: np.ndarray = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return products


def usable(words: list[str]) -> Iterator[tuple[str, str]]:
    """Yields the engine and dtype of each row."""
    for engine in ENGINES:
        for dtype in DTYPES:
            try:
                engines.choose(engine, "cpu", dtype)
            except EngineUnavailable:
                continue
            if not words or any(word in f"{engine} {dtype}" for word in words):
                yield engine, dtype


def vectors(args: argparse.Namespace, engine: str, dtype: str, sentences: list[str]) -> np.ndarray:
    """Returns the vectors of all sentences, float32 ``[n, d]``.

    Raises:
        ServingError: the server did not start.
    """
    model = ["-model_dir", args.model_dir] if args.model_dir else []
    flags = ["-cpu", "-engine", engine, "-dtype", dtype, "-pooling_layer", str(args.pooling_layer)]
    config = ServerConfig.from_args(read_args([*model, *flags, "-max_seq_len", "128"]))
    with ServerManager(300.0) as manager:
        manager.serve(config)
        with BertClient(**manager.connect) as client:
            return np.asarray(client.encode(sentences), np.float32)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_dir", help="folder of a model; default: the embedded all-MiniLM-L6-v2")
    parser.add_argument("--pooling_layer", type=int, default=-1)
    parser.add_argument(
        "--only", nargs="+", default=[], help="only rows whose engine and dtype contain one of these words"
    )
    args = parser.parse_args()

    rows = sts_rows()
    sentences = [row[key] for key in ("sentence1", "sentence2") for row in rows]
    gold = np.array([float(row["score"]) for row in rows])
    print_heading(f"{args.model_dir or 'all-MiniLM-L6-v2'}, layer {args.pooling_layer}, mean; {len(rows)} pairs.")
    print("| engine | dtype | Spearman | worst cosine to the first row |\n|---|---|---:|---:|", flush=True)
    first: np.ndarray | None = None
    code = 0
    for engine, dtype in usable(args.only):
        try:
            found = vectors(args, engine, dtype, sentences)
        except ServingError as error:
            print(f"| {engine} | {dtype} | failed | |", flush=True)
            print(f"benchmark/quality.py: {engine} {dtype}: {error}", file=sys.stderr)
            code = 1
            continue
        first = found if first is None else first
        correlation = spearman(cosines(*np.split(found, 2)), gold)
        print(f"| {engine} | {dtype} | {correlation:.4f} | {cosines(found, first).min():.4f} |", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
