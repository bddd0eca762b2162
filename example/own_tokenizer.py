"""Uses a tokenizer of your own: sends lists of tokens, which the server uses unchanged.

The server looks up tokens in the vocabulary of the model. An unknown token becomes [UNK] and loses its meaning. A
tokenizer must therefore split as the vocabulary expects: for most models lower-case words, separate from punctuation.

Start a server first:  bert-serving-start -show_tokens_to_client
(The flag is only for the demonstration: the server returns the tokens.)
"""

from __future__ import annotations

import re

import numpy as np
from common import address, arguments

from bert_serving.client import BertClient

parser = arguments(__doc__)
parser.add_argument("-texts", nargs="+", default=["Hello world!", "Good day, how are you?"], help="texts to encode")
args = parser.parse_args()


def naive(text: str) -> list[str]:
    return text.split()


def careful(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text.lower())


def show(title: str, tokens: list[list[str]] | None, vectors: np.ndarray) -> None:
    cosines = np.sum(vectors * by_server, axis=1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(by_server, axis=1)
    print(f"\n{title}")
    for number, cosine in enumerate(cosines):
        print(f"  similarity {cosine:.2f}   {tokens[number] if tokens else args.texts[number]}")


def encode(texts: list[str] | list[list[str]], is_tokenized: bool) -> tuple[np.ndarray, list[list[str]] | None]:
    """Returns the vectors, and the tokens if the server returns them."""
    if bc.token_info_available:
        return bc.encode(texts, is_tokenized=is_tokenized, show_tokens=True)
    return bc.encode(texts, is_tokenized=is_tokenized), None


with BertClient(**address(args)) as bc:
    by_server, tokens = encode(args.texts, is_tokenized=False)
    show("the server's own tokenizer", tokens, by_server)
    for tokenizer in (naive, careful):
        vectors, tokens = encode([tokenizer(text) for text in args.texts], is_tokenized=True)
        show(f"the {tokenizer.__name__} one", tokens, vectors)
