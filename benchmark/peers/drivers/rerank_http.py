"""Drives a server with infinity's ``/rerank`` over keep-alive connections: PORT PAIRS."""

from __future__ import annotations

import sys

from loop import in_places, json_poster, read_texts, run

PORT = int(sys.argv[1])


def connect():
    post = json_poster(PORT, "/rerank")

    def score(pairs):
        answer = post({"model": "model", "query": pairs[0][0], "documents": [document for _, document in pairs]})
        return in_places((ranked["index"], ranked["relevance_score"]) for ranked in answer["results"])

    return score


run(connect(), read_texts(sys.argv[2]), connect)
