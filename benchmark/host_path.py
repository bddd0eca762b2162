"""Measures everything except the model: throughput of short sentences with an engine that returns zeros.

    python benchmark/host_path.py

Bulk: sentences per second of one client with large requests, including its own work. Single: latency of one sentence at
a time. Floor, the lower bound of this architecture: a message with the same number of frames through four ZeroMQ hops
in
four processes (the client, three forwarders, and the client again). Prints Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import zmq

from bert_serving.client import BertClient
from bert_serving.server.benchmark.corpus import COMMON
from bert_serving.server.benchmark.managed_server import ServerManager, free_ports
from bert_serving.server.benchmark.options import read_args
from bert_serving.server.config.server_config import ServerConfig
from heading import print_heading

#: Frames of the message of the floor, and bytes of the largest frame: about the size of a vector of 768 values.
FRAMES, PAYLOAD = 5, 3072
SECONDS = 20.0  # maximum seconds to wait for the message
#: Forwards all messages; arguments: address to bind, address to connect.
HOP = """
import sys, zmq
context = zmq.Context()
pull, push = context.socket(zmq.PULL), context.socket(zmq.PUSH)
pull.bind(sys.argv[1])
push.connect(sys.argv[2])
while True:
    push.send_multipart(pull.recv_multipart(copy=False), copy=False)
"""


def sentences(number: int) -> list[str]:
    """Returns different sentences of 5 to 10 common words."""
    chosen = random.Random(0)
    return [" ".join(chosen.choices(COMMON, k=chosen.randint(5, 10))) for _ in range(number)]


@contextlib.contextmanager
def floor() -> Iterator[Callable[[], None]]:
    """Yields a function that sends a message through the hops and waits for it: tcp, ipc, ipc, tcp."""
    first, last = (f"tcp://127.0.0.1:{port}" for port in free_ports(2))
    with tempfile.TemporaryDirectory(prefix="bert-serving-hops-") as folder, contextlib.ExitStack() as stack:
        between = [f"ipc://{folder}/{number}" for number in range(2)]
        addresses = [first, *between, last]
        for here, there in pairwise(addresses):
            process = subprocess.Popen([sys.executable, "-c", HOP, here, there])
            stack.callback(process.wait)
            stack.callback(process.kill)
        context = stack.enter_context(zmq.Context())
        push, pull = stack.enter_context(context.socket(zmq.PUSH)), stack.enter_context(context.socket(zmq.PULL))
        push.linger, pull.rcvtimeo = 0, int(SECONDS * 1000)
        pull.bind(last)
        push.connect(first)
        message = [b"x" * 16] * (FRAMES - 1) + [b"x" * PAYLOAD]

        def call() -> None:
            push.send_multipart(message)
            pull.recv_multipart()

        yield call


def latencies(call: Callable[[], object], number: int) -> np.ndarray:
    """Returns the milliseconds of each call, after some warm-up calls."""
    times = []
    for _ in range(number + number // 10):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return np.array(times[number // 10 :]) * 1e3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=8192, help="sentences per request of the bulk load")
    parser.add_argument("--requests", type=int, default=10, help="requests of the bulk load; the median is reported")
    parser.add_argument("--singles", type=int, default=2000, help="single requests")
    parser.add_argument("--model_dir", help="model with the vocabulary; default: the default model")
    args = parser.parse_args()

    print_heading("Engine zeros, sentences of 5 to 10 words.")
    texts = sentences(args.size)
    model = ["-model_dir", args.model_dir] if args.model_dir else []
    config = ServerConfig.from_args(read_args([*model, "-cpu", "-engine", "zeros", "-num_worker", "1"]))
    with ServerManager(60.0) as manager:
        manager.serve(config)
        with BertClient(**manager.connect) as client:
            bulk = latencies(lambda: client.encode(texts, batch_size=None), args.requests)
            turn = iter(texts * (args.singles // len(texts) + 2))
            single = latencies(lambda: client.encode([next(turn)]), args.singles)
    with floor() as call:
        bare = latencies(call, args.singles)
    print("| | |\n|---|---:|")
    print(f"| bulk, requests of {args.size:,}: sentences/s | {args.size / np.median(bulk) * 1e3:,.0f} |")
    for name, times in (("single sentence", single), ("floor: four hops, nothing else", bare)):
        p50, p99 = np.percentile(times, [50, 99])
        print(f"| {name}: p50 / p99 ms | {p50:.3f} / {p99:.3f} |")
    print(f"| single sentence / floor, p50 | {np.median(single) / np.median(bare):.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
