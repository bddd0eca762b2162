"""Selects and creates the tokenizer of a model folder: BERT's WordPiece, or that of the library ``tokenizers``."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from ..config.server_config import ServerConfig
from ..model.config import ModelConfig
from ..model.errors import ModelConfigError
from .characters import library_rules, python_rules
from .frame import Frame
from .library_tokenizer import LibrarySegmenter
from .tokenizer import Tokenizer
from .vocabulary import Vocabulary, case_warnings, read_object, read_vocabulary, with_library_rules
from .wordpiece import WordPiece


def make_tokenizer(config: ServerConfig, model: ModelConfig, prepared: str | None = None) -> Tokenizer:
    """Creates the tokenizer from the options and the files of the model.

    Args:
        prepared: folder with copies of the files, which are read instead.

    Raises:
        ModelConfigError: the tokenizer is not supported; the message names the file of the model.
    """
    pipeline = config.pipeline
    declares_case = model.checkpoint_format != "tf1"  # a Hugging Face folder declares whether it is cased
    folder, name = os.path.split(model.vocab_path)
    try:
        tokenizer = load_tokenizer(
            os.path.join(prepared or folder, name),
            lower_case=None if declares_case and config.do_lower_case else config.do_lower_case,
            max_seq_len=config.max_seq_len,
            max_tokens=model.max_tokens,
            no_special_token=config.no_special_token,
            mask_cls_sep=config.mask_cls_sep,
            prompt=pipeline.prompts[config.prompt_name] if pipeline and config.prompt_name is not None else "",
            lower_first=pipeline is not None and pipeline.lower_case,
            as_library=pipeline is not None and pipeline.has_modules,
        )
    except ModelConfigError as error:
        if prepared is None:
            raise
        raise ModelConfigError(str(error).replace(prepared, folder)) from error
    if tokenizer.frame.second_type >= model.type_vocab_size and not tokenizer.frame.pair_problem:
        problem = f"the model has one type of token (type_vocab_size {model.type_vocab_size})"
        tokenizer.frame = replace(tokenizer.frame, pair_problem=problem)
    if tokenizer.frame.pair_problem and config.task == "rerank":
        raise ModelConfigError(
            f"-task rerank scores pairs of texts, but {tokenizer.frame.pair_problem}: serve {model.model_dir} with "
            "-task classify"
        )
    return tokenizer


def load_tokenizer(
    vocab_path: str | os.PathLike[str],
    *,
    lower_case: bool | None,
    max_seq_len: int | None,
    max_tokens: int,
    lower_first: bool = False,
    as_library: bool = False,
    **settings: Any,
) -> Tokenizer:
    """Creates a tokenizer from ``vocab.txt`` or ``tokenizer.json``.

    A ``tokenizer.json`` that describes BERT's WordPiece exactly is computed here, any other one by the library.

    Args:
        lower_case: None means the setting in the files of the model, or true if they have none.
        max_seq_len: None means ``max_tokens``.
        max_tokens: longest sequence that the model supports, in tokens.
        lower_first: texts between added tokens are lower-cased before any other step, which leaves accents.
        as_library: a ``vocab.txt`` is read as the library transformers does, not as 1.10.0 does.
        settings: further keyword arguments of ``Tokenizer``.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the tokenizer is not supported, or ``max_seq_len`` exceeds ``max_tokens``.
    """
    if max_seq_len is not None and max_seq_len > max_tokens:
        raise ModelConfigError(
            f"max_seq_len is {max_seq_len}, but the model has only {max_tokens} positions; "
            f"use -max_seq_len {max_tokens} or less"
        )
    settings["max_seq_len"] = max_tokens if max_seq_len is None else max_seq_len
    path = os.fspath(vocab_path)
    parsed = read_object(path) if path.endswith(".json") else {}
    vocabulary = read_vocabulary(path, parsed)
    if vocabulary is not None:
        if as_library and not path.endswith(".json"):
            vocabulary = with_library_rules(vocabulary)
        made = wordpiece_tokenizer(vocabulary, lower_case=lower_case, lower_first=lower_first, **settings)
        made.max_positions = max_tokens
        return made
    library = LibrarySegmenter(path, parsed, lower_first)
    tokenizer = Tokenizer(library, library.ids, library.frame, library.unknown, **settings)
    tokenizer.max_positions = max_tokens
    if lower_case is False:
        tokenizer.warnings.append(f"-cased_tokenization has no effect: {path} decides about case")
    return tokenizer


def wordpiece_tokenizer(
    vocabulary: Vocabulary, *, lower_case: bool | None = None, lower_first: bool = False, **settings: Any
) -> Tokenizer:
    """Creates a tokenizer with BERT's WordPiece.

    Args:
        vocabulary: contains ``[UNK]``, and ``[CLS]`` and ``[SEP]`` if it has no frame.
        lower_case: None means the setting of the vocabulary, or true if it has none.
        lower_first: texts are lower-cased also if ``lower_case`` is false; accents stay then.
        settings: keyword arguments of ``Tokenizer``.

    Raises:
        ValueError: the vocabulary lacks a special token, or ``max_seq_len`` is too small.
    """
    ids, frame = vocabulary.ids, vocabulary.frame
    missing = [token for token in ("[UNK]", *(() if frame else ("[CLS]", "[SEP]"))) if token not in ids]
    if missing:
        raise ModelConfigError(
            f"the vocabulary of {len(ids)} tokens lacks {', '.join(missing)}; it is not a BERT vocabulary: "
            "copy the vocabulary of the model"
        )
    if lower_case is None:
        lower_case = vocabulary.lower_case is not False
    strip = lower_case if vocabulary.strip_accents is None else vocabulary.strip_accents
    lower_case = lower_case or lower_first
    segmenter = WordPiece(
        ids,
        ids["[UNK]"],
        rules=library_rules() if vocabulary.has_library_rules else python_rules(),
        lower_case=lower_case,
        strip_accents=strip,
        split_cjk=vocabulary.split_cjk,
        added=vocabulary.added,
        added_normalized=vocabulary.added_normalized,
        special=vocabulary.special,
    )
    if frame is None:
        padding, favors_longer = ids.get("[PAD]"), vocabulary.has_library_rules
        frame = Frame(ids["[CLS]"], (ids["[SEP]"],), ids["[SEP]"], padding=padding, favors_longer=favors_longer)
    tokenizer = Tokenizer(segmenter, ids, frame, ids["[UNK]"], **settings)
    tokenizer.lower_case = lower_case
    tokenizer.warnings += case_warnings(ids, lower_case)
    return tokenizer
