"""Serves relatives of BERT with their tokenizers and compares the vectors with those of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_serving.client import BertClient
from servers import serving

tokenizers = pytest.importorskip("tokenizers")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

POSITIONS = 64
TEXTS = ["hello world", "Ein schöner Tag im Café </s> und <mask>", "x", "a long text " * 30, "  spaces  "]
PAIRS = [("who is it", "it is me"), ("hello", "你好")]


def write_roberta(folder: Path) -> None:
    """Writes a random RoBERTa with a tokenizer of bytes."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    ids = {token: index for index, token in enumerate([*specials, *alphabet])}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(ids, []))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.post_processor = tokenizers.processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    made.add_special_tokens(specials)
    names = {
        "bos_token": "<s>",
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=POSITIONS, **names)
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.RobertaConfig(
        vocab_size=len(ids),
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=POSITIONS + 2,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        initializer_range=0.15,
    )
    transformers.RobertaModel(config).save_pretrained(folder)


def means(folder: Path, texts: list[Any]) -> np.ndarray:
    """Returns the means of the last hidden states of each text or pair."""
    tokenizer, model = (
        transformers.AutoTokenizer.from_pretrained(folder),
        transformers.AutoModel.from_pretrained(folder),
    )
    rows = []
    for text in texts:
        one, other = text if isinstance(text, tuple) else (text, None)
        ids = tokenizer(one, other, truncation=True, max_length=POSITIONS, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            rows.append(model.eval()(ids).last_hidden_state[0].mean(0).numpy())
    return np.stack(rows)


def test_roberta_with_pairs_and_texts_of_all_positions(tmp_path: Path) -> None:
    write_roberta(tmp_path)
    with (
        serving("-pooling_layer", "-1", "-max_seq_len", "NONE", model_dir=tmp_path) as server,
        BertClient(port=server.port, port_out=server.port_out, timeout=60_000, check_length=False) as client,
    ):
        found = client.encode([*TEXTS, *(" ||| ".join(pair) for pair in PAIRS)])
    np.testing.assert_allclose(found, means(tmp_path, [*TEXTS, *PAIRS]), rtol=0, atol=1e-5)
