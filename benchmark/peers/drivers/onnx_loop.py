"""Drives ONNX Runtime with texts tokenized in advance, batches sorted by length.

MODEL.onnx TOKENIZER MAX_SEQ_LEN TEXTS
"""

from __future__ import annotations

import os
import sys

import numpy as np
import onnxruntime
from loop import in_order, read_texts, run
from tokenizers import Tokenizer

graph, tokenizer_path, length, texts_path = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
texts = read_texts(texts_path)
tokenizer = Tokenizer.from_file(tokenizer_path)
tokenizer.no_padding()
tokenizer.enable_truncation(int(length))
ids = {text: encoding.ids for text, encoding in zip(texts, tokenizer.encode_batch(texts))}  # noqa: B905


def encode_some(some):
    rows = [ids[text] for text in some]
    input_ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
    mask = np.zeros_like(input_ids)
    for index, row in enumerate(rows):
        input_ids[index, : len(row)] = row
        mask[index, : len(row)] = 1
    return session.run(None, {"input_ids": input_ids, "attention_mask": mask})[0]


run(lambda some: in_order(some, 4096 // int(length), ids, encode_some), texts)
