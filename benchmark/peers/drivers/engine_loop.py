"""Drives an engine of this project without a server, with texts tokenized in advance.

MODEL ENGINE DTYPE MAX_SEQ_LEN TEXTS
"""

from __future__ import annotations

import sys

import numpy as np
from loop import in_order, read_texts, run

from bert_serving.server import engines
from bert_serving.server.engines.base import Device, EngineSpec
from bert_serving.server.engines.batch import Batch
from bert_serving.server.engines.cpu_info import num_cores
from bert_serving.server.model.cache import default_cache_dir
from bert_serving.server.model.config import load_model_config
from bert_serving.server.tokenization.factory import load_tokenizer

folder, name, dtype, length, texts_path = sys.argv[1:]
model = load_model_config(folder)
module = engines.load(engines.choose(name, "cpu", dtype, needs=model.features))
spec = EngineSpec(model=model, cache_dir=default_cache_dir(), pooling_layers=(-1,), dtype=dtype)
module.prepare(spec, lambda line: print(line, file=sys.stderr))
engine = module.create(spec, Device("cpu", threads=num_cores()))
texts = read_texts(texts_path)
tokenizer = load_tokenizer(model.vocab_path, lower_case=None, max_seq_len=int(length), max_tokens=model.max_tokens)
tokenized = tokenizer.encode(texts)
ends = np.cumsum(tokenized.lengths)
ids = {
    text: tokenized.input_ids[end - length : end]
    for text, length, end in zip(texts, tokenized.lengths, ends, strict=True)
}


def encode_some(some):
    rows = [ids[text] for text in some]
    packed = np.concatenate(rows)
    lengths = np.array([len(row) for row in rows], np.int32)
    return engine.encode(Batch(packed, np.zeros_like(packed), np.ones_like(packed), lengths))


run(lambda some: in_order(some, 16384 // int(length), ids, encode_some), texts)
