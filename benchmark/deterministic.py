"""Measures the price of ``-deterministic``: two servers with and without it, whose requests alternate.

    python benchmark/deterministic.py
    python benchmark/deterministic.py --quick

Bulk: requests of many texts; single: one text at a time. The start is measured
with a prepared model. The last table has one dense layer after the pooling, in this process. Prints Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import time

import numpy as np
from host_path import sentences

from bert_serving.client import BertClient
from bert_serving.server.benchmark.managed_server import ServerManager
from bert_serving.server.benchmark.options import read_args
from bert_serving.server.config.server_config import ServerConfig
from bert_serving.server.worker.sentence_head import rows_alone, rows_at_once
from heading import print_heading


def serve(stack: contextlib.ExitStack, options: list[str]) -> tuple[BertClient, float]:
    """Returns a client of a new server, and the seconds of its start with a prepared model."""
    config = ServerConfig.from_args(read_args(options))
    with ServerManager(300.0) as first:
        first.serve(config)
    began = time.monotonic()
    manager = stack.enter_context(ServerManager(300.0))
    manager.serve(config)
    seconds = time.monotonic() - began
    return stack.enter_context(BertClient(**manager.connect)), seconds


def dense_layer(width: int) -> tuple[float, float]:
    """Returns the microseconds of one vector in a dense layer: of 64 at once, and one after the other."""
    random = np.random.default_rng(0)
    rows = random.standard_normal((64, width), dtype=np.float32)
    weight = random.standard_normal((width, width), dtype=np.float32)
    found = []
    for multiply in (rows_at_once, rows_alone):
        times = []
        for _ in range(20):
            began = time.perf_counter()
            multiply(rows, weight)
            times.append(1e6 * (time.perf_counter() - began) / len(rows))
        found.append(statistics.median(times))
    return found[0], found[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", nargs="+", default=["fp32", "int8"], help="dtypes of the engine onnx")
    parser.add_argument("--rounds", type=int, default=30, help="requests of each kind to each server")
    parser.add_argument("--size", type=int, default=512, help="texts of a request of the bulk load")
    parser.add_argument("--model_dir", help="default: the default model")
    parser.add_argument("--quick", action="store_true", help="3 rounds of 32 texts in fp32")
    args = parser.parse_args()
    if args.quick:
        args.dtype, args.rounds, args.size = ["fp32"], 3, 32

    print_heading(
        "Engine onnx, sentences of 5 to 10 words. Time with -deterministic relative to that without, medians."
    )
    model = ["-model_dir", args.model_dir] if args.model_dir else []
    texts = sentences(args.size)
    print("| dtype | request of | without, ms | with, ms | ratio of each round | start without, s | start with, s |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for dtype in args.dtype:
        # Otherwise each worker measures the size of its batches.
        options = [*model, "-cpu", "-engine", "onnx", "-dtype", dtype, "-max_batch_tokens", "4096"]
        with contextlib.ExitStack() as stack:
            servers = [serve(stack, options), serve(stack, [*options, "-deterministic"])]
            for size in (args.size, 1):
                times: list[list[float]] = [[], []]
                for number in range(args.rounds):
                    for index in (0, 1) if number % 2 else (1, 0):
                        began = time.perf_counter()
                        servers[index][0].encode(texts[:size], batch_size=None)
                        times[index].append(1e3 * (time.perf_counter() - began))
                ratio = statistics.median(new / old for old, new in zip(*times, strict=True))
                without, with_it = map(statistics.median, times)
                starts = " | ".join(f"{seconds:.1f}" for _, seconds in servers)
                print(f"| {dtype} | {size} | {without:.1f} | {with_it:.1f} | {ratio:.2f} | {starts} |", flush=True)
    print("\n| dense layer after the pooling | 64 at once, µs a vector | each alone, µs a vector |")
    print("|---|---:|---:|")
    for width in (384, 768):
        at_once, alone = dense_layer(width)
        print(f"| {width} to {width} | {at_once:.0f} | {alone:.0f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
