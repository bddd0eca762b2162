"""Encodes a stream without blocking: batches are sent while the results of earlier batches arrive.

Start a server first:  bert-serving-start
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

from common import address, arguments, read_pairs

from bert_serving.client import BertClient

parser = arguments(__doc__)
parser.add_argument("-num_batch", type=int, default=10, help="batches to encode (default: %(default)s)")
parser.add_argument("-batch_size", type=int, default=120, help="texts per batch (default: %(default)s)")
args = parser.parse_args()


def text_gen() -> Iterator[list[str]]:
    """Yields batches without end, faster than any model."""
    texts = itertools.cycle(read_pairs("headlines.tsv")[1])
    while True:
        yield list(itertools.islice(texts, args.batch_size))


with BertClient(**address(args)) as bc:
    # The client sends only as many batches in advance as keep the server busy, so the stream may be endless. Results
    # arrive in order of completion; j.id counts the requests of this client.
    started = time.perf_counter()
    for j in bc.encode_async(text_gen(), max_num_batch=args.num_batch):
        print(f"{time.perf_counter() - started:6.2f} s  request {j.id}: received {j.shape[0]} x {j.shape[1]}")

    # The same with single calls: send, do other work, fetch later. Results come in the order of sending.
    for batch in itertools.islice(text_gen(), 3):
        bc.encode(batch, blocking=False)
    print(f"{len(bc.pending_request)} requests are pending")
    print("received", [vectors.shape for vectors in bc.fetch_all()])
