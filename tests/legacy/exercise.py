# -*- coding: utf-8 -*-
"""Exercises the 1.10.0 client on Python 2.7 and 3, and prints one JSON object with the results.

    python exercise.py PORT PORT_OUT
"""
from __future__ import print_function

import json
import sys
import threading
import warnings

import numpy as np
import zmq
from bert_serving.client import BertClient, ConcurrentBertClient

port, port_out = int(sys.argv[1]), int(sys.argv[2])
warnings.simplefilter("ignore")


def client(**kwargs):
    kwargs.setdefault("timeout", 60000)
    return BertClient(port=port, port_out=port_out, **kwargs)


# The original client has no time limit in fetch and in its private methods.
LIMIT = 60000
original_recv = BertClient._recv


def bounded_recv(self, wait_for_req_id=None):
    if self.receiver.getsockopt(zmq.RCVTIMEO) < 0:
        self.receiver.setsockopt(zmq.RCVTIMEO, LIMIT)
    return original_recv(self, wait_for_req_id)


BertClient._recv = bounded_recv


seen = {"python": sys.version_info[0]}
with client(show_server_config=False) as bc:
    vectors = bc.encode([u"First do it", u"then do it right", u"then do it better"])
    seen["shape"] = vectors.shape
    seen["dtype"] = str(vectors.dtype)
    seen["first"] = [float(value) for value in vectors[0]]
    seen["unicode"] = bc.encode([u"你好么?", u"h\u00e9llo w\u00f6rld", u"hello \U0001f600"]).shape
    seen["pair"] = bc.encode([u"hello world ||| good day"]).shape
    seen["tokenized"] = bc.encode([[u"hello", u"world"], [u"good", u"day", u"nowhere"]], is_tokenized=True).shape
    one, tokens = bc.encode([u"hello world", u"unaffable"], show_tokens=True)
    seen["tokens"] = tokens

    for size in (1, 20, 3):
        bc.encode([u"hello world"] * size, blocking=False)
    seen["fetched"] = sorted(len(r.embedding) for r in bc.fetch())
    for size in (4, 1, 30):
        bc.encode([u"good day"] * size, blocking=False)
    seen["fetch_all"] = [len(v) for v in bc.fetch_all(sort=True)]
    for size in (2, 3):
        bc.encode([u"good day"] * size, blocking=False)
    seen["concat"] = bc.fetch_all(concat=True).shape

    def batches():
        for size in (1, 2, 3, 4, 5):
            yield [u"then do it better"] * size

    # The sender thread and fetch of the original client share a set: the delay lets the thread send first.
    seen["async"] = sorted(len(r.embedding) for r in bc.encode_async(batches(), delay=3.0))
    seen["async_some"] = len(list(bc.encode_async(batches(), max_num_batch=3, delay=3.0)))

    seen["config_keys"] = sorted(bc.server_config)
    status = bc.server_status
    seen["status_keys"] = sorted(status)
    seen["statistic"] = status["statistic"]

    same = bc.encode([u"First do it"])
    seen["same_vector"] = bool(np.allclose(same[0], vectors[0], atol=1e-5))

    errors = {}
    bc._check_length = lambda *args: True
    for name, texts in (("number", [u"a", 5]), ("object", {u"a": 1})):
        bc._check_input_lst_str = lambda texts: None  # like client code of version 1.10 without checks
        try:
            bc.encode(texts, blocking=True) if name == "number" else bc._send(json.dumps(texts).encode(), 1)
            if name == "object":
                bc._recv_ndarray(bc.request_id)
        except Exception as error:
            errors[name] = "%s: %s" % (type(error).__name__, error)
    seen["errors"] = errors
    seen["after_errors"] = bc.encode([u"hello world"]).shape
    seen["as_list"] = None
with client(output_fmt="list") as bc:
    seen["as_list"] = len(bc.encode([u"hello world"])[0])

# Multicast: all clones of an identity receive the result of a request of one clone.
shared = b"a shared identity"
received = []
ready = threading.Barrier(3) if hasattr(threading, "Barrier") else None
clones = [client(identity=shared) for _ in range(2)]
asker = client(identity=shared)
request = asker._send(json.dumps([u"hello world"] * 7).encode(), 7)
for bc in clones:
    bc.pending_request.add(request)
    bc.receiver.setsockopt(zmq.RCVTIMEO, LIMIT)
    while True:
        response = bc.receiver.recv_multipart()
        if len(response) == 4:
            break
    received.append(json.loads(response[1].decode())["shape"])
received.append(list(asker._recv_ndarray(request).embedding.shape))
seen["multicast"] = received
for bc in clones + [asker]:
    bc.close()

# An identity that is a prefix of another identity does not receive its results.
short, long = client(identity=b"user1"), client(identity=b"user12")
long.encode([u"hello world"])
seen["prefix_leak"] = bool(short.receiver.poll(300))
short.close()
long.close()

pool = ConcurrentBertClient(max_concurrency=2, port=port, port_out=port_out, timeout=60000)
seen["concurrent"] = pool.encode(texts=[u"hello world"]).shape
pool.close()
print(json.dumps(seen))
