"""Defines the tables of the comparison: a model, its texts, and the numbers of texts of each load."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from models import base_model, mini_model, mpnet_model, reranker_model
from peers import Peer, of_model
from rerankers import of_reranker

from texts import joined_sentences, shuffled_sentences

#: Texts of each load: one request; one at a time; 32 clients, one at a time each; requests of ``GROUP`` texts.
NUMBERS = {"bulk": 512, "single": 40, "many": 256, "groups": 160}
QUICK = {"bulk": 32, "single": 4, "many": 32, "groups": 32}
LONG = {"bulk": 48, "single": 8, "many": 64, "groups": 32}
QUICK_LONG = {"bulk": 4, "single": 1, "many": 32, "groups": 16}


@dataclass(frozen=True, slots=True)
class Workload:
    """One table.

    Attributes:
        folders: writes the model once; returns its Hugging Face folder, and its TF1 folder or None.
        texts: returns the items: texts, or pairs of a query and a document.
        unit: name of an item in the description of the table.
        peers: yields the systems for these folders.
    """

    title: str
    folders: Callable[[], tuple[str, str | None]]
    texts: Callable[[], list[str] | list[list[str]]] = shuffled_sentences
    unit: str = "sentences"
    numbers: dict[str, int] = field(default_factory=lambda: NUMBERS)
    quick: dict[str, int] = field(default_factory=lambda: QUICK)
    peers: Callable[[str, str | None], Iterator[Peer]] = of_model


def _paragraphs() -> list[str]:
    """Returns texts of 80 to 460 tokens, with a mean of 250."""
    return joined_sentences(8, 31, 160)


def _query_and_documents() -> list[list[str]]:
    """Returns pairs of one query and documents of 10 to 170 tokens, with a mean of 63."""
    query = "what did the man do after the game was over"
    return [[query, document] for document in joined_sentences(2, 8, 800)]


def _long_peers(hf: str, _: str | None) -> Iterator[Peer]:
    return of_model(hf, None, max_seq_len=512)


def _reranker_peers(hf: str, _: str | None) -> Iterator[Peer]:
    return of_reranker(hf)


WORKLOADS = {
    "base": Workload("BERT-base shape, random weights", base_model),
    "minilm": Workload("all-MiniLM-L6-v2", mini_model),
    "mpnet": Workload("all-mpnet-base-v2", mpnet_model),
    "reranker": Workload(
        "Cross-encoder, shape of ms-marco-MiniLM-L6, random head",
        reranker_model,
        _query_and_documents,
        unit="documents",
        peers=_reranker_peers,
    ),
    "paragraphs": Workload(
        "BERT-base shape, paragraphs of 250 tokens",
        base_model,
        _paragraphs,
        unit="paragraphs",
        numbers=LONG,
        quick=QUICK_LONG,
        peers=_long_peers,
    ),
}
