"""Measures the quality of each engine and dtype: Spearman's correlation on the test split of the STS benchmark.

    python benchmark/quality.py
    python benchmark/quality.py --only "onnx fp32" --through zeromq /encode /v1/embeddings
    python benchmark/quality.py --only "onnx fp32" --types float float16 int8 uint8 binary ubinary
    python benchmark/quality.py --only onnx -- -model_dir /models/bert -pooling_layer -2 -max_seq_len 128

With ``--types``, there is a row for each embedding type, with the bytes of a vector. The ranges of int8 and uint8 are
those of sentences of the train split. The score of integers is the cosine of the int8 numbers, that of bits the
number of equal bits.

A server encodes the sentences for each engine and dtype that this machine supports. Arguments after ``--`` are flags of
``bert-serving-start``; the default model is served without any. The score of a pair is the cosine of its vectors. It is
correlated with the human scores. The table also has the worst cosine of a vector to that of the first row. A row of an
engine that does not compute the family of the model is skipped. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from bert_serving.client import BertClient
from bert_serving.client.protocol import EMBEDDING_TYPES
from bert_serving.server import engines
from bert_serving.server.benchmark.managed_server import HOST, free_ports
from bert_serving.server.config.command_line import get_args_parser
from bert_serving.server.config.server_config import ServerConfig
from bert_serving.server.engines.base import EngineUnavailable
from bert_serving.server.errors import ServingError, StartError
from bert_serving.server.model.architecture import Feature
from bert_serving.server.model.errors import ModelError
from bert_serving.server.model.quantization import quantize
from bert_serving.server.supervisor.preflight import read_model
from bert_serving.server.supervisor.supervisor import BertServer
from heading import print_heading
from texts import sts_rows

ENGINES = ("onnx", "tensorflow", "torch")
DTYPES = ("fp32", "bf16", "int8")
#: Ways to the server, and the fields of an HTTP request and of its response that have the texts and the vectors.
ZEROMQ = "zeromq"
HTTP = {"/encode": ("texts", "result"), "/v1/embeddings": ("input", "data")}
TEXTS_PER_REQUEST = 256
#: Of the sentences of the train split, every N-th gives ranges.
TRAIN_STEP = 3


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


def usable(words: list[str], needs: frozenset[Feature]) -> Iterator[tuple[str, str, str]]:
    """Yields the engine and dtype of each row that this machine computes, and why the engine refuses the model.

    Args:
        needs: what the engine must compute beyond BERT.
    """
    for engine in ENGINES:
        for dtype in DTYPES:
            if words and not any(word in f"{engine} {dtype}" for word in words):
                continue
            try:
                engines.choose(engine, "cpu", dtype)
            except EngineUnavailable:
                continue
            try:
                engines.choose(engine, "cpu", dtype, needs=needs)
            except EngineUnavailable as error:
                yield engine, dtype, str(error)
            else:
                yield engine, dtype, ""


@contextmanager
def served(flags: list[str]) -> Iterator[ServerConfig]:
    """Runs a server and yields its configuration.

    Raises:
        ServingError: the server did not start.
    """
    port, port_out, http_port = free_ports(3)
    config = ServerConfig.from_args(get_args_parser().parse_args(flags))
    server = BertServer(config.with_(host=HOST, port=port, port_out=port_out, http_port=http_port))
    server.start()
    try:
        if not server.is_ready.wait(300):
            raise StartError("the server was not ready after 300 s")
        if server.failure:
            raise StartError(server.failure)
        yield server.config
    finally:
        server.close()


def scores(found: np.ndarray, embedding_type: str) -> np.ndarray:
    """Returns the similarity of each sentence of the first half with that of the second half, ``[n / 2]``."""
    if embedding_type in ("binary", "ubinary"):
        bits = np.unpackbits(found.view(np.uint8), axis=1)
        one, two = np.split(bits, 2)
        equal: np.ndarray = (one == two).sum(1)
        return equal
    rows = found.astype(np.float32)
    return cosines(*np.split(rows - 128 if embedding_type == "uint8" else rows, 2))


def print_types(flags: list[str], types: list[str], sentences: list[str], gold: np.ndarray) -> None:
    """Prints a row for each embedding type of a server.

    The float vectors are converted here, to the bytes that the server returns.

    Raises:
        ServingError: the server did not start.
    """
    train = list(dict.fromkeys(row["sentence1"] for row in sts_rows("train")))[::TRAIN_STEP]
    with served(flags) as config:
        sample = vectors(config, ZEROMQ, train)
        floats = vectors(config, ZEROMQ, sentences)
    ranges = np.stack([sample.min(0), sample.max(0)])
    print(f"\nRanges of {len(train):,} sentences of the train split.\n")
    print("| type | bytes of a vector | Spearman |\n|---|---:|---:|", flush=True)
    for embedding_type in types:
        found = quantize(floats, embedding_type, ranges)
        correlation = spearman(scores(found, embedding_type), gold)
        print(f"| {embedding_type} | {found[0].nbytes:,} | {correlation:.4f} |", flush=True)


def vectors(config: ServerConfig, through: str, sentences: list[str]) -> np.ndarray:
    """Returns the vectors of all sentences, float32 ``[n, d]``."""
    if through == ZEROMQ:
        with BertClient(HOST, config.port, config.port_out, check_length=False) as client:
            return np.asarray(client.encode(sentences), np.float32)
    parts = [sentences[start : start + TEXTS_PER_REQUEST] for start in range(0, len(sentences), TEXTS_PER_REQUEST)]
    return np.concatenate([post(f"http://{HOST}:{config.http_port}{through}", HTTP[through], part) for part in parts])


def post(url: str, fields: tuple[str, str], texts: list[str]) -> np.ndarray:
    """Returns the vectors of one HTTP request, float32 ``[n, d]``."""
    request = urllib.request.Request(url, json.dumps({fields[0]: texts}).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as response:
        rows = json.load(response)[fields[1]]
    return np.array([row["embedding"] if isinstance(row, dict) else row for row in rows], np.float32)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", default=[], help="only rows whose engine and dtype contain one of these words"
    )
    parser.add_argument("--through", nargs="+", default=[ZEROMQ], choices=[ZEROMQ, *HTTP], help="ways to the server")
    parser.add_argument("--types", nargs="+", default=[], choices=EMBEDDING_TYPES, help="rows for embedding types")
    parser.add_argument("flags", nargs="*", help="flags of bert-serving-start, after --")
    args = parser.parse_args()

    try:
        config = ServerConfig.from_args(get_args_parser().parse_args(["-cpu", *args.flags]))
        needs = read_model(config, logging.Logger("quality"))[1].features
    except (ServingError, ModelError) as error:
        print(f"benchmark/quality.py: {error}", file=sys.stderr)
        return 1
    rows = sts_rows()
    sentences = [row[key] for key in ("sentence1", "sentence2") for row in rows]
    gold = np.array([float(row["score"]) for row in rows])
    print_heading(f"{shlex.join(args.flags) or 'all-MiniLM-L6-v2, without a flag'}; {len(rows)} pairs.")
    if args.types:
        for engine, dtype, refusal in usable(args.only, needs):
            if not refusal:
                print(f"\nEngine {engine}, {dtype}.")
                print_types(["-cpu", "-engine", engine, "-dtype", dtype, *args.flags], args.types, sentences, gold)
        return 0
    print(
        "| engine | dtype | through | Spearman | worst cosine to the first row |\n|---|---|---|---:|---:|", flush=True
    )
    first: np.ndarray | None = None
    code = 0
    for engine, dtype, refusal in usable(args.only, needs):
        if refusal:
            print(f"| {engine} | {dtype} | skipped | | |", flush=True)
            print(f"benchmark/quality.py: {refusal}", file=sys.stderr)
            continue
        try:
            with served(["-cpu", "-engine", engine, "-dtype", dtype, *args.flags]) as config:
                for through in args.through:
                    found = vectors(config, through, sentences)
                    first = found if first is None else first
                    correlation = spearman(cosines(*np.split(found, 2)), gold)
                    worst = cosines(found, first).min()
                    print(f"| {engine} | {dtype} | {through} | {correlation:.4f} | {worst:.4f} |", flush=True)
        except ServingError as error:
            print(f"| {engine} | {dtype} | failed | | |", flush=True)
            print(f"benchmark/quality.py: {engine} {dtype}: {error}", file=sys.stderr)
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
