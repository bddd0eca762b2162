"""Measures the start time and the memory of a server by engine and number of workers.

    python benchmark/footprint.py
    python benchmark/footprint.py --engine onnx --dtype int8 --size mini --workers 1

Uses a model of BERT-base shape with random weights on the CPU. The cold start has an empty cache and prepares the
model. Warm starts use the cache, as after a deployment. Seconds count from the launch of the command to "all set, ready
to serve request!". Memory is the total of all processes after each worker has encoded some batches. PSS counts a shared
page once, USS excludes shared pages. Linux only. Prints Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from engine_loop import SIZES, random_model

from bert_serving.client import BertClient
from bert_serving.server import engines
from bert_serving.server.benchmark.managed_server import free_ports
from bert_serving.server.engines.base import EngineUnavailable
from bert_serving.server.model.cache import default_cache_dir
from heading import print_heading

READY = "all set, ready to serve request!"
READY_SECONDS = 300.0
MIB = 1 << 20


class StartError(RuntimeError):
    """A server did not start; the message contains the end of its log."""


@dataclass(frozen=True)
class RunningServer:
    """A server that is ready.

    Attributes:
        ports: for requests and for results.
        began: when its command was launched, in seconds of ``time.perf_counter``.
        seconds: time from then until it was ready.
        log: file that its log is written to.
    """

    pid: int
    ports: tuple[int, int]
    began: float
    seconds: float
    log: Path


@contextlib.contextmanager
def serving(flags: list[str], cache: str) -> Iterator[RunningServer]:
    """Runs a server.

    Raises:
        StartError: the server did not start.
    """
    port, port_out = free_ports(2)
    command = [sys.executable, "-m", "bert_serving.server", *flags, "-port", str(port), "-port_out", str(port_out)]
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        began = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "BERT_SERVING_CACHE": cache},
            start_new_session=True,
        )
        try:
            while READY not in (text := Path(log.name).read_text("utf-8", "replace")):
                if process.poll() is not None or time.perf_counter() - began > READY_SECONDS:
                    raise StartError(text[-2000:])
                time.sleep(0.02)
            yield RunningServer(process.pid, (port, port_out), began, time.perf_counter() - began, Path(log.name))
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def memory_mib(pid: int) -> tuple[float, float]:
    """Returns PSS and USS of a process and its descendants in MiB."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    infos = [process.memory_full_info() for process in family]
    return sum(info.pss for info in infos) / MIB, sum(info.uss for info in infos) / MIB


def work(ports: tuple[int, int], workers: int) -> None:
    """Lets every worker encode some batches of sentences of different lengths."""
    words = random.Random(0)
    texts = [" ".join(["w7"] * words.randint(5, 40)) + f" w{number}" for number in range(128 * workers)]
    with BertClient(port=ports[0], port_out=ports[1]) as client:
        client.encode(texts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--engine", nargs="+", default=["onnx", "tensorflow", "torch"])
    parser.add_argument("--dtype", nargs="+", default=["fp32", "bf16", "int8"])
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--repeats", type=int, default=3, help="starts with a warm cache; the median is reported")
    args = parser.parse_args()

    folder = random_model(args.size, Path(default_cache_dir()) / f"random-{args.size}")
    print_heading(f"BERT-{args.size} shape, random weights.")
    heads = [f"{number} worker{'s' * (number > 1)}: PSS (USS) MiB" for number in args.workers]
    print(f"| engine | dtype | cold start s | warm start s | {' | '.join(heads)} |")
    print(f"|---|---|{'---:|' * (2 + len(heads))}", flush=True)
    code = 0
    for engine, dtype in ((engine, dtype) for engine in args.engine for dtype in args.dtype):
        try:
            engines.choose(engine, "cpu", dtype)
        except EngineUnavailable as error:
            print(f"skipping {engine} {dtype}: {error}", file=sys.stderr)
            continue
        try:
            cells = measure(["-cpu", "-model_dir", folder, "-engine", engine, "-dtype", dtype], args)
        except StartError as error:
            print(f"benchmark/footprint.py: {engine} {dtype} did not start:\n{error}", file=sys.stderr)
            cells, code = ["failed", "", *[""] * len(heads)], 1
        print(f"| {engine} | {dtype} | {' | '.join(cells)} |", flush=True)
    return code


def measure(flags: list[str], args: argparse.Namespace) -> list[str]:
    """Returns the cells of a row."""
    with tempfile.TemporaryDirectory(prefix="bert-serving-footprint-") as cache:
        with serving(flags, cache) as first:
            pass
        warm, memory = [], []
        for _ in range(args.repeats):
            with serving(flags, cache) as later:
                warm.append(later.seconds)
        for workers in args.workers:
            with serving([*flags, "-num_worker", str(workers)], cache) as server:
                work(server.ports, workers)
                pss, uss = memory_mib(server.pid)
                memory.append(f"{pss:,.0f} ({uss:,.0f})")
    return [f"{first.seconds:.1f}", f"{statistics.median(warm):.1f}", *memory]


if __name__ == "__main__":
    sys.exit(main())
