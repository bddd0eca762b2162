"""Measures the start of a server and of a client: where the time goes until the first vector.

    python benchmark/start.py
    python benchmark/start.py --engine onnx --dtype int8 --repeats 5
    python benchmark/start.py --quick

Uses a model with random weights on the CPU. The first start has an empty cache and prepares the model; later starts use
the cache, and their median is shown. Seconds count from the launch of the command until the server is ready, and until
a client has a vector. Seconds of the processor are those of all processes of the server, and depend less on other
programs of the machine. The last column has the steps that ``-verbose`` logs. The client is a new program each time.
Python runs compiled modules, as after an installation with pip: a start before the others compiles those that this
environment lacks. Linux only. Prints Markdown.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
from engine_loop import SIZES, random_model
from footprint import READY_SECONDS, StartError, serving

from bert_serving.client import BertClient
from bert_serving.server import engines
from bert_serving.server.engines.base import EngineUnavailable
from bert_serving.server.model.cache import default_cache_dir
from heading import print_heading

#: Processes whose steps are shown, by their names in the log.
SHOWN = {"SUPERVISOR": "supervisor", "GRAPHOPT": "prepare", "WORKER-0": "worker"}
STEPS = re.compile(r" D:([A-Z0-9-]+):\[.*?\]:start took ([\d.]+) s, ([\d.]+) s of processor time: (.*)$", re.MULTILINE)
#: What a program does until its first vector.
CLIENT = """
import sys, time
began = time.monotonic()
from bert_serving.client import BertClient
imported = time.monotonic()
client = BertClient(port=int(sys.argv[1]), port_out=int(sys.argv[2]))
connected = time.monotonic()
client.encode(["hello world"])
print(imported - began, connected - imported, time.monotonic() - connected, time.process_time())
"""


@dataclass
class Start:
    """A start of a server, and of a client; seconds."""

    ready: float
    first_vector: float
    processor: float
    steps: str
    client: list[float]


def measure(flags: list[str], cache: str) -> Start:
    """Starts a server, then a client.

    Raises:
        StartError: the server did not start.
    """
    with serving(["-verbose", *flags], cache) as server:
        processor = processor_seconds(server.pid)
        port, port_out = server.ports
        with BertClient(port=port, port_out=port_out) as client:
            client.encode(["hello world"])
        first_vector = time.perf_counter() - server.began
        command = [sys.executable, "-c", CLIENT, str(port), str(port_out)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=READY_SECONDS)
        steps = steps_of(server.log.read_text("utf-8", "replace"))
        return Start(server.seconds, first_vector, processor, steps, [float(part) for part in done.stdout.split()])


def processor_seconds(pid: int) -> float:
    """Returns the processor time of a process, of its child processes, and of those that have ended."""
    server = psutil.Process(pid)
    return sum(sum(process.cpu_times()[:4]) for process in [server, *server.children(recursive=True)])


def steps_of(log: str) -> str:
    """Returns the steps of each process in ``SHOWN``, of the log with ``-verbose``."""
    found = {name: steps for name, _, _, steps in STEPS.findall(log)}
    return "; ".join(f"{title}: {found[name]}" for name, title in SHOWN.items() if name in found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--engine", nargs="+", default=["onnx", "tensorflow", "torch"])
    parser.add_argument("--dtype", nargs="+", default=["fp32"])
    parser.add_argument("--repeats", type=int, default=3, help="starts with a filled cache; the median is shown")
    parser.add_argument("--quick", action="store_true", help="one engine, a small model, one start with a filled cache")
    args = parser.parse_args()
    if args.quick:
        args.size, args.engine, args.dtype, args.repeats = "tiny", ["onnx"], ["fp32"], 1

    with tempfile.TemporaryDirectory(prefix="bert-serving-bytecode-") as bytecode:
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = bytecode
        return measure_all(args)


def measure_all(args: argparse.Namespace) -> int:
    """Prints the table. Returns the exit code."""
    folder = random_model(args.size, Path(default_cache_dir()) / f"random-{args.size}")
    print_heading(f"BERT-{args.size} shape, random weights.")
    print("| engine | dtype | start | ready s | first vector s | processor s | steps |")
    print("|---|---|---|---:|---:|---:|---|", flush=True)
    code, clients = 0, []
    for engine, dtype in ((engine, dtype) for engine in args.engine for dtype in args.dtype):
        try:
            engines.choose(engine, "cpu", dtype)
            flags = ["-cpu", "-model_dir", folder, "-engine", engine, "-dtype", dtype]
            with tempfile.TemporaryDirectory(prefix="bert-serving-start-") as cache:
                measure(flags, os.path.join(cache, "first"))  # compiles modules
                starts = [measure(flags, cache) for _ in range(1 + args.repeats)]
        except EngineUnavailable as error:
            print(f"skipping {engine} {dtype}: {error}", file=sys.stderr)
            continue
        except StartError as error:
            print(f"benchmark/start.py: {engine} {dtype} did not start:\n{error}", file=sys.stderr)
            print(f"| {engine} | {dtype} | failed | | | | |", flush=True)
            code = 1
            continue
        clients += [start.client for start in starts]
        print_row(engine, dtype, "first", starts[:1])
        if args.repeats:
            print_row(engine, dtype, "later", starts[1:])
    if clients:
        medians = [f"{1000 * statistics.median(column):.0f}" for column in zip(*clients, strict=True)]
        print(f"\n| client: import ms | connect ms | first vector ms | processor ms |\n|{'---:|' * 4}")
        print(f"| {' | '.join(medians)} |")
    return code


def print_row(engine: str, dtype: str, kind: str, starts: list[Start]) -> None:
    """Prints the medians of some starts, with the steps of the median one."""
    middle = sorted(starts, key=lambda start: start.ready)[len(starts) // 2]
    columns = zip(*((start.ready, start.first_vector, start.processor) for start in starts), strict=True)
    cells = " | ".join(f"{statistics.median(column):.1f}" for column in columns)
    print(f"| {engine} | {dtype} | {kind} | {cells} | {middle.steps} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
