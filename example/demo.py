"""Shows the similarities of five sentences (``make demo``).

Starts a server with the default model, encodes the sentences, prints their similarities, and stops the server.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from bert_serving.client import BertClient
from bert_serving.server import BertServer
from bert_serving.server.benchmark.managed_server import free_ports
from bert_serving.server.config.command_line import get_args_parser

SENTENCES = [
    "A man is playing a guitar.",
    "Someone strums an acoustic guitar.",
    "The stock market fell sharply today.",
    "Shares dropped on Wall Street this morning.",
    "A cat sleeps on the windowsill.",
]


def show(sentences: list[str], similarity: np.ndarray) -> None:
    """Prints a table of cosine similarities and marks the most similar other sentence of each row."""
    width = max(map(len, sentences))
    print("\n" + " " * (width + 5) + "".join(f"{i + 1:>7}" for i in range(len(sentences))))
    for i, (sentence, row) in enumerate(zip(sentences, similarity, strict=True)):
        closest = int(np.argmax(np.where(np.arange(len(row)) == i, -1, row)))
        cells = "".join(f"{value:6.2f}{'*' if j == closest else ' '}" for j, value in enumerate(row))
        print(f"{i + 1:>2}  {sentence:<{width}} {cells}")
    print("\n* the sentence that is closest in meaning\n")


def main() -> None:
    port, port_out = free_ports(2)
    args = get_args_parser().parse_args(["-port", str(port), "-port_out", str(port_out), "-host", "127.0.0.1"])
    started = time.perf_counter()
    with BertServer(args), BertClient(port=port, port_out=port_out) as client:
        print(f"\nthe server is ready after {time.perf_counter() - started:.1f} s", file=sys.stderr)
        vectors = client.encode(SENTENCES)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        show(SENTENCES, vectors @ vectors.T)


if __name__ == "__main__":
    main()
