"""Drives CTranslate2 in this process, batches of 32 sorted by length: MODEL TOKENIZER TYPE MAX_SEQ_LEN TEXTS.

CTranslate2 has no tokenizer and no pooling: the library ``tokenizers`` and numpy compute them.
"""

from __future__ import annotations

import os
import sys

import ctranslate2
import numpy as np
from loop import in_order, read_texts, run
from tokenizers import Tokenizer

folder, tokenizer_path, dtype, length, texts = sys.argv[1:]
threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
encoder = ctranslate2.Encoder(folder, device="cpu", compute_type=dtype, intra_threads=threads)
tokenizer = Tokenizer.from_file(tokenizer_path)
tokenizer.no_padding()
tokenizer.enable_truncation(int(length))


def encode(some):
    ids = {text: encoding.ids for text, encoding in zip(some, tokenizer.encode_batch(some), strict=True)}

    def encode_batch(part):
        rows = [ids[text] for text in part]
        hidden = np.array(encoder.forward_batch(rows).last_hidden_state)
        return np.stack([tokens[: len(row)].mean(0) for tokens, row in zip(hidden, rows, strict=True)])

    return in_order(some, 32, ids, encode_batch)


run(encode, read_texts(texts))
