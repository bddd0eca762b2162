"""Measures the speed of one client: larger requests have a higher throughput, smaller ones a lower latency.

Start a server first:  bert-serving-start
"""

from __future__ import annotations

import time

from common import address, arguments, read_pairs

from bert_serving.client import BertClient

parser = arguments(__doc__)
parser.add_argument("-sizes", type=int, nargs="+", default=[1, 4, 16, 64, 256, 1024], help="texts per request")
parser.add_argument("-num_repeat", type=int, default=5, help="requests of each size (default: %(default)s)")
args = parser.parse_args()

_, headlines = read_pairs("headlines.tsv")

with BertClient(**address(args)) as bc:
    bc.encode(headlines)  # the first request warms the server up
    print(f"{'texts':>8} {'seconds':>10} {'texts/s':>10}")
    for size in args.sizes:
        texts = [headlines[i % len(headlines)] for i in range(size)]
        started = time.perf_counter()
        for _ in range(args.num_repeat):
            bc.encode(texts)
        seconds = (time.perf_counter() - started) / args.num_repeat
        print(f"{size:>8} {seconds:>10.4f} {size / seconds:>10.0f}")
