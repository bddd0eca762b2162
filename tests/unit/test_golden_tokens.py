"""Compares tokens with those of bert-as-service 1.10.0, recorded from its own code.

``golden/`` holds served tokens; the README there describes the recording. ``tokenization_cases.json`` holds the output
of its tokenizer and feature code on Python 3.7, with BERT's uncased vocabulary, for difficult texts. The texts use only
characters whose category has not changed since Unicode 11, so the expected tokens hold for every Python version. A case
contains the text, the tokens, the number of tokens in the second segment and, where tokens are masked, the mask.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_serving.server.tokenization.factory import load_tokenizer
from bert_serving.server.tokenization.tokenizer import Tokenizer

DATA = Path(__file__).parent.parent / "data"
VOCABS = {
    "tiny": DATA / "golden" / "models" / "tiny" / "vocab.txt",
    "minilm": DATA / "bert_uncased_vocab.txt",
}
SERVED = [path for model in VOCABS for path in sorted((DATA / "golden" / model).glob("*.json"))]
GROUPS = json.loads((DATA / "tokenization_cases.json").read_text(encoding="utf-8"))


def served_tokenizer(model: str, args: list[str]) -> Tokenizer:
    max_seq_len = args[args.index("-max_seq_len") + 1] if "-max_seq_len" in args else "25"
    return load_tokenizer(
        VOCABS[model],
        lower_case="-cased_tokenization" not in args,
        max_seq_len=None if max_seq_len == "NONE" else int(max_seq_len),
        max_tokens=64 if model == "tiny" else 512,
        no_special_token="-no_special_token" in args,
        mask_cls_sep="-mask_cls_sep" in args,
    )


@pytest.mark.parametrize("path", SERVED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_tokens_equal_those_served_by_1_10(path: Path) -> None:
    golden = json.loads(path.read_text(encoding="utf-8"))
    tokenizer = served_tokenizer(path.parent.name, golden["args"])
    for part in golden["parts"].values():
        assert tokenizer.tokens(tokenizer.encode(part["texts"])) == part["tokens"]


@pytest.mark.parametrize("at_once", [True, False], ids=["one-request", "request-each"])
@pytest.mark.parametrize("group", GROUPS, ids=range(len(GROUPS)))
def test_tokens_segments_and_masks_equal_those_of_1_10(group: dict[str, Any], at_once: bool) -> None:
    settings = {name: value for name, value in group.items() if name != "cases"}
    longest = settings.pop("max_position_embeddings")
    tokenizer = load_tokenizer(VOCABS["minilm"], max_tokens=longest, **settings)
    cases = group["cases"] if at_once else group["cases"][:400]
    requests = [cases] if at_once else [[case] for case in cases]
    for request in requests:
        tokenized = tokenizer.encode([case[0] for case in request])
        ends = np.cumsum(tokenized.lengths)
        for case, tokens, end in zip(request, tokenizer.tokens(tokenized), ends, strict=True):
            text, expected, of_second, *masks = case
            assert tokens == expected.split(), text
            types = [0] * len(tokens) if tokenized.type_ids is None else tokenized.type_ids[end - len(tokens) : end]
            assert list(types) == [0] * (len(tokens) - of_second) + [1] * of_second, text
            if masks:
                assert tokenized.mask is not None
                assert "".join(map(str, tokenized.mask[end - len(tokens) : end])) == masks[0], text
