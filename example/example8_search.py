"""Searches a FAQ: finds the questions that have the same meaning as the query.

Start a server first:  bert-serving-start
Then ask:              python example/example8_search.py -query "do I need a graphics card?"
"""

from __future__ import annotations

import contextlib

import numpy as np
from common import address, arguments, read_pairs

from bert_serving.client import BertClient

parser = arguments(__doc__)
parser.add_argument("-query", help="a question; default: read questions until an empty line")
parser.add_argument("-topk", type=int, default=3, help="answers to show (default: %(default)s)")
args = parser.parse_args()

questions, answers = read_pairs("faq.tsv")
words = np.mean([len(question.split()) for question in questions])
print(f"{len(questions)} questions loaded, {words:.0f} words on average")


def unit(vectors: np.ndarray) -> np.ndarray:
    """Scales vectors to length 1; their dot product is then the cosine."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def show(query: str) -> None:
    score = doc_vecs @ unit(bc.encode([query])[0])
    for index in np.argsort(score)[::-1][: args.topk]:
        print(f"> {score[index]:.2f}  {questions[index]}\n        {answers[index]}")


with BertClient(**address(args)) as bc:
    doc_vecs = unit(bc.encode(questions))
    if args.query:
        show(args.query)
    with contextlib.suppress(EOFError):
        while not args.query and (query := input("your question: ").strip()):
            show(query)
