"""Prints the state of the server, one line per second.

For graphs and alerts, start the server with -http_port, and open /dashboard in a browser or scrape /metrics with
Prometheus.

Start a server first:  bert-serving-start
"""

from __future__ import annotations

import contextlib
import json
import time

from common import address, arguments

from bert_serving.client import BertClient

parser = arguments(__doc__)
parser.add_argument("-interval", type=float, default=1.0, help="seconds between two lines (default: %(default)s)")
parser.add_argument("-num_line", type=int, default=0, help="stop after this number of lines (default: never)")
parser.add_argument("-json", action="store_true", help="print the whole status once, as JSON")
args = parser.parse_args()


def show_lines(bc: BertClient) -> None:
    line = 0
    sequences, last = bc.server_status["statistic"]["num_total_seq"], time.perf_counter()
    print(f"{'state':>9} {'clients':>8} {'requests':>9} {'texts/s':>8} {'waiting':>8} {'workers':>8} {'restarts':>9}")
    while not args.num_line or line < args.num_line:
        time.sleep(args.interval)
        status, now = bc.server_status, time.perf_counter()
        statistic = status["statistic"]
        speed = (statistic["num_total_seq"] - sequences) / (now - last)
        sequences, last, line = statistic["num_total_seq"], now, line + 1
        print(
            f"{status['state']:>9} {statistic['num_active_client']:>8} {statistic['num_data_request']:>9} {speed:>8.0f}"
            f" {status['queue']['sequences']:>8} {len(status['workers']):>8} {status['num_restarts']:>9}",
            flush=True,
        )


with BertClient(**address(args)) as bc:
    if args.json:
        print(json.dumps(bc.server_status, ensure_ascii=False, indent=1))
    else:
        with contextlib.suppress(KeyboardInterrupt):
            show_lines(bc)
