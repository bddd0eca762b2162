"""Sends results to several clients: clients with the same identity receive each other's results.

Several models can train on the same vectors while the server computes them once.

Start a server first:  bert-serving-start
"""

from __future__ import annotations

import threading

from common import address, arguments

from bert_serving.client import BertClient

parser = arguments(__doc__)
parser.add_argument("-num_clone", type=int, default=2, help="clients that listen (default: %(default)s)")
args = parser.parse_args()

BATCHES = [["First do it"], ["then do it right", "then do it better"], ["and then", "do it", "again"]]
all_listening = threading.Barrier(args.num_clone + 1)


def client_clone(identity: bytes, number: int) -> None:
    with BertClient(**address(args), identity=identity) as bc:
        results = bc.listen()  # receives all results from now on
        all_listening.wait()
        for _, j in zip(BATCHES, results, strict=False):
            # The line and its end are one write, so that threads do not mix their lines.
            print(f"clone-client-{number}: received {j.shape[0]} x {j.shape[1]}\n", end="")


with BertClient(**address(args)) as bc:
    clones = [threading.Thread(target=client_clone, args=(bc.identity, i)) for i in range(args.num_clone)]
    for clone in clones:
        clone.start()
    all_listening.wait()
    for batch in BATCHES:
        bc.encode(batch)
    for clone in clones:
        clone.join()
