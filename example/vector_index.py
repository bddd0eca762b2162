"""Searches vectors: numpy for thousands, an index for millions.

Start a server first:  bert-serving-start
Optional:              pip install faiss-cpu, or pip install hnswlib
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from common import address, arguments, read_pairs

from bert_serving.client import BertClient

#: Receives query vectors [q, d], returns the scores and the row numbers of the best, both [q, topk].
Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]


def numpy_index(vectors: np.ndarray) -> Search:
    """Compares with every vector: exact, and fast enough up to some hundred thousand vectors."""

    def search(queries: np.ndarray, topk: int) -> tuple[np.ndarray, np.ndarray]:
        scores = queries @ vectors.T
        best = np.argsort(-scores, axis=1)[:, :topk]
        return np.take_along_axis(scores, best, axis=1), best

    return search


def faiss_index(vectors: np.ndarray) -> Search:
    """Searches exactly; faiss.index_factory creates compressed and approximate indexes in the same way."""
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return index.search


def hnswlib_index(vectors: np.ndarray) -> Search:
    """Searches a graph of neighbours: approximate, and fast for millions of vectors."""
    import hnswlib

    index = hnswlib.Index(space="ip", dim=vectors.shape[1])
    index.init_index(max_elements=len(vectors), ef_construction=200, M=16)
    index.add_items(vectors)

    def search(queries: np.ndarray, topk: int) -> tuple[np.ndarray, np.ndarray]:
        best, distances = index.knn_query(queries, k=topk)
        return 1 - distances, best

    return search


INDEXES = {"hnswlib": hnswlib_index, "faiss": faiss_index, "numpy": numpy_index}

parser = arguments(__doc__)
parser.add_argument("-index", choices=INDEXES, help="search library (default: the first that is installed)")
parser.add_argument("-query", nargs="+", default=["a new medicine", "money for young companies"], help="queries")
parser.add_argument("-topk", type=int, default=3, help="headlines to show (default: %(default)s)")
args = parser.parse_args()


def build(vectors: np.ndarray) -> tuple[str, Search]:
    for name in [args.index] if args.index else INDEXES:
        try:
            return name, INDEXES[name](vectors)
        except ImportError as error:
            if args.index:
                raise SystemExit(f"-index {args.index}: {error}; install it with pip") from None
    raise AssertionError("numpy is always installed")


_, headlines = read_pairs("headlines.tsv")
with BertClient(**address(args)) as bc:
    vectors, queries = bc.encode(headlines), bc.encode(args.query)
for rows in (vectors, queries):  # scaled to unit length: the dot product is the cosine
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)

name, search = build(vectors)
print(f"{len(vectors)} headlines, searched with {name}")
for query, scores, rows in zip(args.query, *search(queries, args.topk), strict=True):
    print(f"\n{query}")
    for score, row in zip(scores, rows, strict=True):
        print(f"  {score:.2f}  {headlines[row]}")
