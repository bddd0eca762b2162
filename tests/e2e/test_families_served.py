"""Serves relatives of BERT with their tokenizers and compares the vectors with those of transformers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_serving.client import BertClient
from family_tokenizers import MULTILINGUAL, write_tokenizer
from http_calls import float32, serving_http
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


#: family → prefix of its classes in transformers, configuration.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "mpnet": ("MPNet", {"max_position_embeddings": POSITIONS + 2}),
    "modernbert": ("ModernBert", {"max_position_embeddings": POSITIONS, "local_attention": 6}),
}


def write_family(folder: Path, family: str) -> Any:
    """Writes a random model with the tokenizer of its family; returns what ``AutoTokenizer`` reads from it."""
    auto = write_tokenizer(folder, family)
    name, values = FAMILIES[family]
    config = getattr(transformers, f"{name}Config")(
        vocab_size=len(auto),
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=48,
        initializer_range=0.15,
        **{f"{kind}_token_id": getattr(auto, f"{kind}_token_id") for kind in ("pad", "cls", "sep")},
        bos_token_id=auto.cls_token_id,
        eos_token_id=auto.sep_token_id,
        **values,
    )
    torch.manual_seed(0)
    getattr(transformers, f"{name}Model")(config).save_pretrained(folder)
    return auto


@pytest.mark.parametrize(("family", "engine"), [("mpnet", "onnx"), ("modernbert", "torch")])
def test_texts_pairs_tokens_and_token_ids_by_each_protocol(tmp_path: Path, family: str, engine: str) -> None:
    auto = write_family(tmp_path, family)
    # These texts mean the same to transformers: no padding token, and nothing that a space at the end changes.
    texts = [*MULTILINGUAL, "hello world", "hello <mask> [MASK]", "a long text " * 30]
    expected = means(tmp_path, [*texts, *PAIRS])
    flags = ("-pooling_layer", "-1", "-max_seq_len", "NONE", "-show_tokens_to_client", "-engine", engine)
    with serving_http(*flags, model_dir=tmp_path) as server, server.zmq_client() as client:
        sent = [*texts, *(" ||| ".join(pair) for pair in PAIRS)]
        found, tokens = client.encode(sent, show_tokens=True)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
        ids = [auto(text, truncation=True, max_length=POSITIONS)["input_ids"] for text in texts]
        ids += [auto(*pair)["input_ids"] for pair in PAIRS]
        assert tokens == [auto.convert_ids_to_tokens(row) for row in ids]
        padded = auto.pad({"input_ids": ids})["input_ids"]
        data = server.call("/v1/embeddings", {"input": padded}).json["data"]
        np.testing.assert_allclose(float32([row["embedding"] for row in data]), expected, rtol=0, atol=1e-5)
        inner = [row[1:-1] for row in tokens[: len(texts)]]
        np.testing.assert_allclose(client.encode(inner, is_tokenized=True), expected[: len(texts)], rtol=0, atol=1e-5)


def test_an_engine_that_does_not_compute_a_model_is_refused_before_the_start(tmp_path: Path) -> None:
    write_family(tmp_path, "mpnet")
    command = [sys.executable, "-m", "bert_serving.server", "-check", "-cpu", "-model_dir", str(tmp_path)]
    refused = subprocess.run([*command, "-engine", "tensorflow"], capture_output=True, text=True, timeout=120)
    assert refused.returncode == 3
    assert "tensorflow cannot run" in refused.stderr
    assert "relative position bias, which the model has; use -engine onnx" in refused.stderr
    chosen = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert chosen.returncode == 0, chosen.stderr
    assert "MPNET, 4 layers of 32" in chosen.stdout
