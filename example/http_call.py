"""Calls the server over HTTP without a client library: JSON, or raw bytes for speed.

Start a server first:  bert-serving-start -http_port 8125
"""

from __future__ import annotations

import argparse
import json
import urllib.error
import urllib.request

import numpy as np

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("-url", default="http://localhost:8125", help="address of the server (default: %(default)s)")
args = parser.parse_args()

TEXTS = ["hello world", "good day!"]


def post(path: str, payload: dict, accept: str = "application/json") -> urllib.request.addinfourl:
    headers = {"Content-Type": "application/json", "Accept": accept}
    request = urllib.request.Request(args.url + path, json.dumps(payload).encode(), headers)
    try:
        return urllib.request.urlopen(request)
    except urllib.error.HTTPError:
        raise
    except urllib.error.URLError as error:
        raise SystemExit(f"{args.url}: {error.reason}; start a server with -http_port 8125") from None


# JSON, as in 1.10. The response contains the id of the request, of any type.
with post("/encode", {"id": 123, "texts": TEXTS, "is_tokenized": False}) as reply:
    answer = json.load(reply)
    vectors = np.array(answer["result"], np.float32)
    print(f"/encode          id {answer['id']}, status {answer['status']}, {vectors.shape}")

# The same numbers as bytes: less than half the size, and no parsing.
with post("/encode", {"texts": TEXTS}, accept="application/octet-stream") as reply:
    shape = [int(number) for number in reply.headers["X-Shape"].split(",")]
    raw = np.frombuffer(reply.read(), reply.headers["X-Dtype"]).reshape(shape)
    print(f"/encode, bytes   {raw.shape}, the same: {np.allclose(raw, vectors, atol=1e-5)}")

# The API of OpenAI; its package works as well: OpenAI(base_url=url + "/v1", api_key="anything").
with post("/v1/embeddings", {"model": "bert", "input": TEXTS}) as reply:
    data = json.load(reply)["data"]
    print(f"/v1/embeddings   {len(data)} x {len(data[0]['embedding'])}")

# Errors are JSON as well.
try:
    post("/encode", {"texts": "not a list"})
except urllib.error.HTTPError as error:
    print(f"an error         {error.code}: {json.load(error)['description']}")

with urllib.request.urlopen(args.url + "/status/server") as reply:
    print(f"/status/server   {json.load(reply)['statistic']['num_total_request']} requests so far")
