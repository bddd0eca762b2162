"""Drives a server with OpenAI's embeddings API over keep-alive connections, vectors as base64: PORT TEXTS."""

from __future__ import annotations

import base64
import http.client
import json
import sys
import time

import numpy as np
from loop import read_texts, run

PORT = int(sys.argv[1])


def connect():
    connection = http.client.HTTPConnection("127.0.0.1", PORT)
    used = time.monotonic()

    def encode(texts):
        nonlocal used
        if time.monotonic() - used > 2:  # the server closes idle connections
            connection.close()
        body = json.dumps({"model": "model", "input": texts, "encoding_format": "base64"})
        connection.request("POST", "/embeddings", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = json.loads(response.read())
        used = time.monotonic()
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {answer}")
        return np.stack([np.frombuffer(base64.b64decode(row["embedding"]), np.float32) for row in answer["data"]])

    return encode


run(connect(), read_texts(sys.argv[2]), connect)
