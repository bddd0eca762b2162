"""Computes a vector for each word in its context: the "bank" of a river differs from the bank with money.

BERT splits rare words into pieces, "flooring" into "floor" and "##ing". The server returns the pieces, and the example
joins the pieces of a word.

Start a server first:  bert-serving-start -pooling_strategy NONE -max_seq_len NONE -show_tokens_to_client
"""

from __future__ import annotations

import numpy as np
from common import address, arguments

from bert_serving.client import BertClient

parser = arguments(__doc__)
parser.add_argument("-word", default="bank", help="the word to compare (default: %(default)s)")
parser.add_argument(
    "-texts",
    nargs="+",
    default=[
        "She fished from the bank of the river.",
        "Unbelievably, the bank of the creek was flooded.",
        "The bank gave him a loan for his house.",
        "She opened an account at the bank.",
    ],
    help="texts with this word",
)
args = parser.parse_args()


def words_of(tokens: list[str], vectors: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Returns the words of a text with their vectors [d], the mean of the pieces of a word.

    Args:
        tokens: tokens of the text, from ``[CLS]`` to ``[SEP]``.
        vectors: one row per token, followed by rows of padding: [t, d].
    """
    words: list[str] = []
    pieces: list[list[np.ndarray]] = []
    for token, vector in zip(tokens[1:-1], vectors[1:], strict=False):
        if token.startswith("##"):
            words[-1] += token[2:]
            pieces[-1].append(vector)
        else:
            words.append(token)
            pieces.append([vector])
    return [(word, np.mean(vectors, axis=0)) for word, vectors in zip(words, pieces, strict=True)]


with BertClient(**address(args)) as bc:
    config = bc.server_config
    if config["pooling_strategy"] != 0 or not config["show_tokens_to_client"]:
        raise SystemExit("start the server with -pooling_strategy NONE -show_tokens_to_client")
    vectors, tokens = bc.encode(args.texts, show_tokens=True)

print(f"{len(args.texts)} texts, {vectors.shape[1]} tokens each, {vectors.shape[2]} numbers per token")
found = []
for text, its_tokens, its_vectors in zip(args.texts, tokens, vectors, strict=True):
    words = words_of(its_tokens, its_vectors)
    print(f"\n{text}\n  tokens {its_tokens}\n  words  {[word for word, _ in words]}")
    found += [vector for word, vector in words if word == args.word][:1]
if len(found) != len(args.texts):
    raise SystemExit(f"{args.word!r} is missing in a text")

unit = np.array(found) / np.linalg.norm(found, axis=1, keepdims=True)
print(f"\nhow similar is {args.word!r} in one text to {args.word!r} in another?")
for text, row in zip(args.texts, unit @ unit.T, strict=True):
    print("  " + "".join(f"{value:6.2f}" for value in row) + f"   {text}")
