"""Runs ninety-six clients concurrently, with one sentence per request: the load of a busy web site.

A single client leaves the model mostly idle. The server combines the sentences of all clients into batches. With 128
requests per client, the load is that of AWS Neuron's BERT demo: 12,288 requests.

Start a server first:  bert-serving-start
Then, in full:         python example/many_clients.py -num_request 128
"""

from __future__ import annotations

import threading
import time

import numpy as np
from common import address, arguments, read_pairs

from bert_serving.client import BertClient

parser = arguments(__doc__)
parser.add_argument("-num_client", type=int, default=96, help="clients (default: %(default)s)")
parser.add_argument("-num_request", type=int, default=20, help="requests per client (default: %(default)s)")
args = parser.parse_args()

_, headlines = read_pairs("headlines.tsv")


def measure(num_client: int, num_request: int) -> tuple[float, np.ndarray]:
    """Returns the seconds for all requests, and the seconds of each."""
    all_ready = threading.Barrier(num_client + 1)
    latencies = np.zeros([num_client, num_request])

    def client(number: int) -> None:
        with BertClient(**address(args)) as bc:
            all_ready.wait()
            for i in range(num_request):
                started = time.perf_counter()
                bc.encode([headlines[(number + i) % len(headlines)]])
                latencies[number, i] = time.perf_counter() - started

    threads = [threading.Thread(target=client, args=(number,)) for number in range(num_client)]
    for thread in threads:
        thread.start()
    all_ready.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    return time.perf_counter() - started, latencies.ravel()


print(f"{'clients':>8} {'requests/s':>12} {'median':>10} {'99 %':>10}")
for num_client in (1, args.num_client):
    seconds, latencies = measure(num_client, args.num_request)
    median, slow = np.percentile(latencies, [50, 99]) * 1000
    print(f"{num_client:>8} {latencies.size / seconds:>12.0f} {median:>7.0f} ms {slow:>7.0f} ms")
