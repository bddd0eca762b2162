"""Drives a server of bert-as-service, the original or this one, with its own client: PORT TEXTS."""

from __future__ import annotations

import sys
import warnings

from loop import read_texts, run

from bert_serving.client import BertClient

warnings.simplefilter("ignore")  # the original warns about truncated texts
PORT = int(sys.argv[1])


def connect():
    return BertClient(port=PORT, port_out=PORT + 1, check_length=False, timeout=600_000).encode


run(connect(), read_texts(sys.argv[2]), connect)
