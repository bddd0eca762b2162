"""Drives a server with OpenAI's embeddings API over keep-alive connections, vectors as base64: PORT PATH TEXTS."""

from __future__ import annotations

import base64
import sys

import numpy as np
from loop import json_poster, read_texts, run

PORT, PATH = int(sys.argv[1]), sys.argv[2]


def connect():
    post = json_poster(PORT, PATH)

    def encode(texts):
        answer = post({"model": "model", "input": texts, "encoding_format": "base64"})
        return np.stack([np.frombuffer(base64.b64decode(row["embedding"]), np.float32) for row in answer["data"]])

    return encode


run(connect(), read_texts(sys.argv[3]), connect)
