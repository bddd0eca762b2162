"""A process of clients, each in a thread of its own: reads its job from standard input, writes when each answer came.

Clients share a process only up to a number, so that it is the server that is measured and not one interpreter's lock.
The job is a line of JSON; the crew says ``ready`` when all its clients are connected, waits for a line, and begins.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

from bert_serving.client import BertClient, BertServingError

from .load import Repeats

#: Start, end (``time.perf_counter``), the client's index and that of its request.
CompletedRequest = tuple[float, float, int, int]


def main() -> None:
    """Does one job."""
    job = json.loads(sys.stdin.readline())
    requests: list[list[list[str]]] = job["requests"]
    repeats = Repeats(**job["repeats"])
    clients: list[BertClient] = []
    try:
        for _ in requests:
            clients.append(BertClient(**job["connect"]))  # noqa: PERF401, those made are closed if one fails
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
        mine, client = requests[index], clients[index]
        begun = time.perf_counter()
        count = 0
        try:
            while not failures and repeats.should_continue(count, time.perf_counter() - begun):
                which = count % len(mine)
                sent = time.perf_counter()
                client.encode(mine[which], batch_size=None)
                done.append((sent, time.perf_counter(), index, which))
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
