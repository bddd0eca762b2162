"""Measures the cache of vectors: rates with 0, 50 and 100 % repeated texts, beside no cache and an engine of zeros.

    python benchmark/cache.py
    python benchmark/cache.py --quick
    python benchmark/cache.py -engine torch -max_seq_len 64

Accepts the flags of ``bert-serving-start``. All servers run at the same time, and the rounds of all rows alternate.
Bulk: one client sends requests of 256 texts; the rate is the median of the rounds. Single: one client sends one text at
a time; the median of all latencies. Prints Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import random
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from bert_serving.client import BertClient
from bert_serving.server.benchmark.corpus import COMMON
from bert_serving.server.benchmark.managed_server import ServerManager
from bert_serving.server.benchmark.options import read_args
from bert_serving.server.config.server_config import ServerConfig
from heading import print_heading

#: Texts of a request of the bulk load, and number of different texts that are repeated.
SIZE, NUM_REPEATED = 256, 1024
#: Memory of the cache in MiB.
CACHE_MB = 256


@dataclass
class Row:
    """A row of the table: a server, and the share of its texts that it has had before."""

    title: str
    server: str
    share: float
    rates: list[float] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)


ROWS = [
    Row("no cache", "plain", 0.0),
    Row("no cache, texts repeated", "plain", 1.0),
    Row("cache, 0 % hits", "cache", 0.0),
    Row("cache, 50 % hits", "cache", 0.5),
    Row("cache, 100 % hits", "cache", 1.0),
    Row("no cache, engine zeros", "zeros", 0.0),
]


class Texts:
    """Sentences of 5 to 10 common words and a number, of which a share is repeated."""

    def __init__(self) -> None:
        self._random = random.Random(0)
        self._numbers = itertools.count()
        self.repeated = [self.new() for _ in range(NUM_REPEATED)]

    def new(self) -> str:
        words = self._random.choices(COMMON, k=self._random.randint(5, 10))
        return " ".join([*words, *str(next(self._numbers))])

    def take(self, count: int, share: float) -> list[str]:
        """Returns texts of which ``share`` is repeated. No text occurs twice among them."""
        old = self._random.sample(self.repeated, round(count * share))
        texts = old + [self.new() for _ in range(count - len(old))]
        self._random.shuffle(texts)
        return texts


def measure(rows: list[Row], clients: dict[str, BertClient], texts: Texts, args: argparse.Namespace) -> Iterator[None]:
    """Runs the rounds of all rows; yields after each."""
    for client in clients.values():
        client.encode(texts.repeated, batch_size=None)
    for _, row in itertools.product(range(args.rounds), rows):
        client = clients[row.server]
        requests = [texts.take(SIZE, row.share) for _ in range(args.requests)]
        start = time.perf_counter()
        for request in requests:
            client.encode(request, batch_size=None)
        row.rates.append(SIZE * args.requests / (time.perf_counter() - start))
        for text in texts.take(args.singles, row.share):
            start = time.perf_counter()
            client.encode([text])
            row.milliseconds.append(1e3 * (time.perf_counter() - start))
        yield


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each row")
    parser.add_argument("--requests", type=int, default=8, help="requests of the bulk load in a round")
    parser.add_argument("--singles", type=int, default=200, help="single texts in a round")
    parser.add_argument("--quick", action="store_true", help="one short round, to see that everything works")
    args, flags = parser.parse_known_args()
    if args.quick:
        args.rounds, args.requests, args.singles = 1, 1, 10
    config = ServerConfig.from_args(read_args(flags))
    configs = {
        "plain": config,
        "cache": config.with_(cache_mb=CACHE_MB),
        "zeros": config.with_(engine="zeros", cpu=True),
    }
    texts = Texts()
    with contextlib.ExitStack() as stack:
        clients = {}
        for name, each in configs.items():
            manager = stack.enter_context(ServerManager(600.0))
            manager.serve(each)
            clients[name] = stack.enter_context(BertClient(**manager.connect))
        for _ in measure(ROWS, clients, texts, args):
            pass
        figures = clients["cache"].server_status["cache"]
    print_heading(f"Requests of {SIZE} texts, and single ones; {' '.join(flags) or 'the default model'}.")
    print("| | texts/s | / no cache | one text, ms |\n|---|---:|---:|---:|")
    base = statistics.median(ROWS[0].rates)
    for row in ROWS:
        rate = statistics.median(row.rates)
        print(f"| {row.title} | {rate:,.0f} | {rate / base:.2f} | {statistics.median(row.milliseconds):.2f} |")
    print(f"\n{figures['hits']:,} hits, {figures['misses']:,} misses, {figures['bytes'] / 2**20:.1f} MiB in the cache.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
