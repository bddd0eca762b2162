"""Drives a server of this project that ranks documents, with its own client: PORT PAIRS."""

from __future__ import annotations

import sys

from loop import in_places, read_texts, run

from bert_serving.client import BertClient

PORT = int(sys.argv[1])


def connect():
    client = BertClient(port=PORT, port_out=PORT + 1, timeout=600_000)

    def score(pairs):
        ranking = client.rerank(pairs[0][0], [document for _, document in pairs])
        return in_places((ranked.index, ranked.score) for ranked in ranking)

    return score


run(connect(), read_texts(sys.argv[2]), connect)
