"""Writes a Hugging Face BERT with mean pooling as ``fp32.gguf`` and ``int8.gguf`` (Q8_0): MODEL OUT.

Names and keys are those of llama.cpp's ``convert_hf_to_gguf.py``, which no package has.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file

NAMES = {
    "embeddings.word_embeddings": "token_embd", "embeddings.token_type_embeddings": "token_types",
    "embeddings.position_embeddings": "position_embd", "embeddings.LayerNorm": "token_embd_norm",
    "attention.self.query": "attn_q", "attention.self.key": "attn_k", "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output", "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up", "output.dense": "ffn_down", "output.LayerNorm": "layer_output_norm",
}  # fmt: skip
folder, out = Path(sys.argv[1]), Path(sys.argv[2])
config = json.loads((folder / "config.json").read_text("utf-8"))
tensors = load_file(folder / "model.safetensors")
vocab = (folder / "vocab.txt").read_text("utf-8").splitlines()


def piece(token):
    """Returns a token as llama.cpp writes it: a mark begins each word, and continuations have none."""
    if token.startswith("[") and token.endswith("]"):
        return token
    return token.removeprefix("##") if token.startswith("##") else "\u2581" + token


def name_of(tensor):
    """Returns the name of a tensor in GGUF; None for the pooler, which mean pooling does not use."""
    stem, _, kind = tensor.removeprefix("bert.").rpartition(".")
    prefix = ""
    if stem.startswith("encoder.layer."):
        number, stem = stem.removeprefix("encoder.layer.").split(".", 1)
        prefix = f"blk.{number}."
    return f"{prefix}{NAMES[stem]}.{kind}" if stem in NAMES else None


def write(path, quantized):
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("jina-v2-en")  # lower-cases, as this vocabulary does
    writer.add_token_list([piece(token) for token in vocab])
    special = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_token_types([special[not piece(token).startswith("[") or len(token) == 1] for token in vocab])
    writer.add_token_type_count(config["type_vocab_size"])
    for key, token in (("pad", "[PAD]"), ("unk", "[UNK]"), ("sep", "[SEP]"), ("mask", "[MASK]")):
        getattr(writer, f"add_{key}_token_id")(vocab.index(token))
    writer.add_bos_token_id(vocab.index("[CLS]"))
    writer.add_eos_token_id(vocab.index("[SEP]"))
    for name, weight in sorted(tensors.items()):
        target = name_of(name)
        if target is None:
            continue
        weight = weight.astype(np.float32)
        if quantized and weight.ndim == 2 and target.startswith(("blk.", "token_embd.")):
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(target, gguf.quants.quantize(weight, kind), raw_dtype=kind)
        else:
            writer.add_tensor(target, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


out.mkdir(parents=True, exist_ok=True)
write(out / "fp32.gguf", False)
write(out / "int8.gguf", True)
