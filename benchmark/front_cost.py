"""Measures what a text costs each process of the front, by number of tokenizer processes.

    python benchmark/front_cost.py
    python benchmark/front_cost.py --tokenizers 0 2 4 --clients 64 --seconds 10
    python benchmark/front_cost.py --plain     # single texts by clients that take 25 us a request, in one process

The engine returns zeros. Single: clients in four processes send one text at a time. Bulk: one client sends large
requests. The rounds of all settings alternate. The rate is the median of the rounds. CPU microseconds a text are the
least of the rounds, since other work on the machine adds to them. Linux only. Prints Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import threading
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import plain_clients
import psutil
from host_path import sentences

from bert_serving.client import BertClient
from bert_serving.server.benchmark.managed_server import ServerManager
from bert_serving.server.benchmark.options import read_args
from bert_serving.server.config.server_config import ServerConfig
from heading import print_heading

#: Client processes of single requests.
PROCESSES = 4
ROLES = ("ventilator", "tokenizer", "worker", "sink")


def load(pipe: Connection, connect: dict[str, Any], clients: int, size: int, seconds: float) -> None:
    """Runs clients in threads: sends how many texts they encoded, and the CPU seconds of this process."""
    texts = sentences(max(size, 1000))
    counts = [0] * clients
    with contextlib.ExitStack() as stack:
        connected = [stack.enter_context(BertClient(**connect)) for _ in range(clients)]
        for client in connected:
            client.encode(texts[:1])
        pipe.send(None)
        pipe.recv()
        began, end = time.process_time(), time.monotonic() + seconds

        def run(index: int) -> None:
            while time.monotonic() < end:
                first = counts[index] % 1000 if size == 1 else 0
                connected[index].encode(texts[first : first + size], batch_size=None)
                counts[index] += size

        threads = [threading.Thread(target=run, args=(index,)) for index in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        pipe.send((sum(counts), time.process_time() - began))


def cpu_seconds(parent: int) -> dict[str, float]:
    """Returns the CPU seconds of the child processes of a server, by role."""
    found = dict.fromkeys(ROLES, 0.0)
    for child in psutil.Process(parent).children(recursive=True):
        names = [word for word in child.cmdline() if word.startswith("bert-serving-")]
        role = names[0].removeprefix("bert-serving-").partition("-")[0] if names else ""
        if role in found:
            found[role] += sum(child.cpu_times()[:2])
    return found


def measure(
    parent: int, connect: dict[str, Any], clients: int, size: int, seconds: float, is_plain: bool = False
) -> dict[str, float]:
    """Returns texts per second, and CPU microseconds a text of each role and of the clients.

    Args:
        parent: process id of the supervisor.
        connect: arguments of the clients.
        is_plain: whether they are those of ``plain_clients``.
    """
    spawn = get_context("spawn")
    number = 1 if is_plain else min(PROCESSES, clients)
    running = []
    for index in range(number):
        near, far = spawn.Pipe()
        share = clients // number + (index < clients % number)
        process = spawn.Process(
            target=plain_clients.load if is_plain else load, args=(far, connect, share, size, seconds)
        )
        process.start()
        running.append((process, near))
    for _, pipe in running:
        pipe.recv()
    before, began = cpu_seconds(parent), time.monotonic()
    for _, pipe in running:
        pipe.send(None)
    results = [pipe.recv() for _, pipe in running]
    passed, after = time.monotonic() - began, cpu_seconds(parent)
    for process, _ in running:
        process.join()
    texts = sum(count for count, _ in results)
    costs = {role: 1e6 * (after[role] - before[role]) / texts for role in ROLES}
    return {"rate": texts / passed, **costs, "clients": 1e6 * sum(cpu for _, cpu in results) / texts}


def row(name: str, rounds: list[dict[str, float]]) -> str:
    """Returns a row of the table."""
    costs = {key: min(each[key] for each in rounds) for key in (*ROLES, "clients")}
    share = costs["clients"] / sum(costs.values())
    cells = [f"{statistics.median(each['rate'] for each in rounds):,.0f}", *(f"{cost:.1f}" for cost in costs.values())]
    return f"| {name} | {' | '.join(cells)} | {share:.0%} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizers", type=int, nargs="+", default=[0, 1, 2], help="numbers of tokenizer processes")
    parser.add_argument("--clients", type=int, nargs="+", default=[32, 64], help="numbers of clients of single texts")
    parser.add_argument("--size", type=int, default=8192, help="texts of a request of the bulk load")
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds of a round")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each setting")
    parser.add_argument("--plain", action="store_true", help="single texts by clients with plain sockets")
    parser.add_argument("--model_dir", help="model with the vocabulary; default: the default model")
    args = parser.parse_args()

    print_heading("Engine zeros, sentences of 5 to 10 words. CPU microseconds a text.")
    print(f"Load of the machine before: {os.getloadavg()[0]:.1f}.\n")
    model = ["-model_dir", args.model_dir] if args.model_dir else []
    loads = [(f"{clients} clients, single texts", clients, 1) for clients in args.clients]
    loads.append((f"1 client, requests of {args.size:,}", 1, args.size))
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(args.rounds):
        for number in args.tokenizers:
            options = ["-cpu", "-engine", "zeros", "-num_worker", "1", "-num_tokenizer", str(number)]
            with ServerManager(120.0) as manager:
                manager.serve(ServerConfig.from_args(read_args([*model, *options])))
                for name, clients, size in loads:
                    is_plain = args.plain and size == 1
                    result = measure(os.getpid(), manager.connect, clients, size, args.seconds, is_plain)
                    found.setdefault(f"{name}, {number} tokenizers", []).append(result)
    print(f"| | texts/s | {' | '.join(ROLES)} | clients | share of the clients |")
    print("|---|" + "---:|" * (len(ROLES) + 3))
    for name in sorted(found, key=lambda each: each.rpartition(", ")[0]):
        print(row(name, found[name]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
