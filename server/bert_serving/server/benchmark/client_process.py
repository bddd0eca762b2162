"""Runs several clients in one process, each in a thread, and reports the time of each response.

The number of clients per process is limited, so that the interpreter lock is not the bottleneck. The process reads a
job as a line of JSON and writes ``ready`` when all clients are connected. It starts after the next line.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

from bert_serving.client import BertClient, BertServingError

from .load import Repeats

#: Start and end (``time.perf_counter``), index of the client and of its request.
CompletedRequest = tuple[float, float, int, int]


def main() -> None:
    """Runs one job."""
    job = json.loads(sys.stdin.readline())
    requests: list[list[list[str]]] = job["requests"]
    repeats = Repeats(**job["repeats"])
    clients: list[BertClient] = []
    try:
        for _ in requests:
            clients.append(BertClient(**job["connect"]))  # noqa: PERF401, finally closes those connected
        if job["warm_up"]:
            _warm_up(clients[0], requests[0], repeats)
        _write_message("ready")
        sys.stdin.readline()
        _write_message({"done": _run_clients(clients, requests, repeats)})
    except BertServingError as error:
        _write_message({"failure": str(error)})
    finally:
        for client in clients:
            client.close()


def _warm_up(client: BertClient, requests: list[list[str]], repeats: Repeats) -> None:
    started = time.perf_counter()
    for index in range(repeats.warm_up):
        if index and time.perf_counter() - started > repeats.max_seconds / 4:
            break
        client.encode(requests[index % len(requests)], batch_size=None)


def _run_clients(
    clients: list[BertClient], requests: list[list[list[str]]], repeats: Repeats
) -> list[CompletedRequest]:
    done: list[CompletedRequest] = []  # append is atomic
    failures: list[BaseException] = []

    def work(index: int) -> None:
        own_requests, client = requests[index], clients[index]
        began = time.perf_counter()
        count = 0
        try:
            while not failures and repeats.should_continue(count, time.perf_counter() - began):
                number = count % len(own_requests)
                sent = time.perf_counter()
                client.encode(own_requests[number], batch_size=None)
                done.append((sent, time.perf_counter(), index, number))
                count += 1
        except BaseException as error:  # raised below
            failures.append(error)

    threads = [threading.Thread(target=work, args=(index,), daemon=True) for index in range(len(clients))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return done


def _write_message(value: Any) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
