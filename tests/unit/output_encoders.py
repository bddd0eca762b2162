"""Encodes batches as a worker with the engine onnx does."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from bert_serving.server.config.model_folder import apply_model_folder
from bert_serving.server.config.server_config import ServerConfig
from bert_serving.server.engines.base import Device
from bert_serving.server.engines.batch import Batch
from bert_serving.server.engines.onnx import engine as onnx
from bert_serving.server.ipc.messages import BatchMessage
from bert_serving.server.model.cache import Cache
from bert_serving.server.tokenization.factory import make_tokenizer
from bert_serving.server.worker import token_heads
from bert_serving.server.worker.batch_encoder import BatchEncoder
from bert_serving.server.worker.engine_spec import engine_spec
from bert_serving.server.worker.sentence_head import SentenceHead
from bert_serving.server.worker.token_head_weights import load_token_heads, prepare_token_heads

LOG = logging.getLogger("test")


def encoder_of(folder: Path, cache: Path) -> tuple[BatchEncoder, Any]:
    """Returns what a worker encodes batches with, and the tokenizer."""
    config, model = apply_model_folder(ServerConfig(model_dir=str(folder)), LOG)
    spec = engine_spec(config, model, {"cache_dir": str(cache), "dtype": "fp32"})
    onnx.prepare(spec, lambda _: None)
    engine = onnx.create(spec, Device(threads=1))
    pipeline = config.pipeline
    assert pipeline is not None
    entry = prepare_token_heads(pipeline, model, Cache(cache))
    heads = token_heads.TokenHeads(pipeline, load_token_heads(str(entry)), "float32")
    head = SentenceHead(pipeline, config.pooled_size(model), {})
    return BatchEncoder(engine, head, spec, heads), make_tokenizer(config, model)


def message_of(tokenizer: Any, texts: list[str], codes: list[int]) -> BatchMessage:
    tokenized = tokenizer.encode(texts)
    zeros = np.zeros_like(tokenized.input_ids)
    batch = Batch(tokenized.input_ids, zeros, zeros + 1, tokenized.lengths)
    return BatchMessage(1, batch, b"", vector_codes=np.array(codes, np.int32).tobytes())
