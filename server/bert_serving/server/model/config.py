"""Reads the architecture and the file names of a model from its folder, without its weights."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from .adapter import Adapter, find_adapter, has_adapter
from .architecture import BERT, Architecture, Feature
from .architecture_config import Sizes, read_act, read_architecture, read_positions
from .config_values import Values
from .errors import ModelConfigError, ModelUnsupported
from .families import FAMILIES, as_bert, find_family, position_offset
from .files import (
    DEFAULT_CKPT_NAME,
    DEFAULT_CONFIG_NAME,
    SLOW_TOKENIZERS,
    VOCAB_NAMES,
    checkpoint_files,
    find_checkpoint,
    find_config,
    find_vocab,
    reject_lfs_pointer,
    require_folder,
)
from .rejections import head_class, own_code, reject_folder, reject_tuned_adapter
from .tokenizer_settings import reject_tokenizer_settings

#: Largest number of layers. The largest BERT has 48; a list of the weights of a million layers would take gigabytes.
MAX_LAYERS = 1024
#: Values of ``tokenizer_class`` whose ``vocab.txt`` is BERT's WordPiece.
_WORD_PIECE_CLASSES = (
    *(f"{name}Tokenizer{kind}" for name in ("Bert", "DistilBert", "Electra") for kind in ("", "Fast")),
)
#: Largest number of ids without a token. Some models round ``vocab_size`` up; a wider gap means another vocabulary.
MAX_UNUSED_IDS = 1024


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Holds the sizes, the architecture and the file names of an encoder.

    Attributes:
        model_dir: folder of the model.
        config_path: ``bert_config.json`` or ``config.json``.
        vocab_path: ``vocab.txt`` or ``tokenizer.json``.
        checkpoint: a TF1 checkpoint prefix, a ``.safetensors`` or ``pytorch_model.bin`` file, or the index file of a
            sharded checkpoint.
        checkpoint_format: ``tf1``, ``safetensors`` or ``pytorch``.
        is_tuned: the checkpoint is from ``-tuned_model_dir``.
        head_class: class of the model with its head that the configuration names, such as ``BertForMaskedLM``; the
            weights may lack the head.
        own_code: a class of the folder's own code, which is not run, because this server computes the family.
        hidden_act: activation of the feed-forward, a value of ``HIDDEN_ACTS``.
        max_position_embeddings: used rows of the table of positions; without a table, the longest sequence in tokens.
        family: a key of ``FAMILIES``.
        position_offset: unused rows at the start of the checkpoint's table of positions.
        architecture: how the encoder differs from BERT.
        adapter: what is merged into the weights of the checkpoint; None without an adapter.
    """

    model_dir: str
    config_path: str
    vocab_path: str
    checkpoint: str
    checkpoint_format: str
    is_tuned: bool
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    hidden_act: str = "gelu"
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    head_class: str | None = None
    own_code: str | None = None
    family: str = "bert"
    position_offset: int = 0
    architecture: Architecture = BERT
    adapter: Adapter | None = None

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """Returns the configuration of a dictionary that ``dataclasses.asdict`` made, also after a way through JSON."""
        return msgspec.convert(values, cls)

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def max_tokens(self) -> int:
        """Most tokens of a sequence."""
        return self.max_position_embeddings

    @property
    def weight_files(self) -> list[Path]:
        """All files with weights: those of the checkpoint, then that of the adapter.

        Raises:
            WeightError: as ``checkpoint_files``.
        """
        of_adapter = [] if self.adapter is None else [Path(self.adapter.weights)]
        return [*checkpoint_files(self.checkpoint, self.checkpoint_format), *of_adapter]

    @property
    def is_quick_to_open(self) -> bool:
        """Whether the names of all tensors can be read within milliseconds, without a large library."""
        return {self.checkpoint_format, self.adapter.weights_format if self.adapter else "safetensors"} == {
            "safetensors"
        }

    @property
    def features(self) -> frozenset[Feature]:
        """What an engine must compute beyond BERT."""
        silu = {Feature.SILU} if self.hidden_act == "silu" else set()
        return self.architecture.features | silu


def load_model_config(
    model_dir: str | os.PathLike[str],
    *,
    config_name: str = DEFAULT_CONFIG_NAME,
    ckpt_name: str = DEFAULT_CKPT_NAME,
    tuned_model_dir: str | os.PathLike[str] | None = None,
    adapter_dir: str | os.PathLike[str] | None = None,
    base: str | None = None,
) -> ModelConfig:
    """Reads and validates the configuration of a model in milliseconds, without its weights.

    A folder has one of two layouts. That of Google is ``bert_config.json``, ``vocab.txt`` and a TF1 checkpoint. That of
    Hugging Face is ``config.json``, ``vocab.txt`` or ``tokenizer.json``, and ``model.safetensors`` or
    ``pytorch_model.bin``, whole or sharded. Configuration and vocabulary are read from ``model_dir``. The checkpoint is
    in ``tuned_model_dir``, if given, with either layout. Of an adapter, all but the tokenizer are those of its base
    model; the tokenizer is too, if the folder of the adapter has none.

    Args:
        adapter_dir: folder of the adapter, if it is not ``model_dir``; it may have none.
        base: folder of the base model of the adapter; None for the one that its configuration names.

    Raises:
        ModelNotFound: a folder or a file is missing; the message lists the existing files.
        ModelUnsupported: the model is not BERT, or an unsupported variant.
        ModelConfigError: the configuration or the vocabulary is invalid, or they contradict each other.
        WeightError: a file of the checkpoint is missing, or is a Git LFS pointer.
    """
    folder = require_folder(model_dir, "-model_dir")
    found = find_adapter(folder, Path(adapter_dir or folder), base)
    adapter, root = found or (None, folder)
    tokenizer_folder = root
    if adapter is not None:
        if tuned_model_dir is not None:
            raise ModelUnsupported(
                f"-tuned_model_dir {tuned_model_dir} and the adapter {adapter.folder} both change the weights; omit "
                "one of them"
            )
        own = Path(adapter.folder)
        tokenizer_folder = own if any((own / name).is_file() for name in (*VOCAB_NAMES, *SLOW_TOKENIZERS)) else root
    has_tf1 = tuned_model_dir is not None or (root / f"{ckpt_name}.index").is_file()
    config_path = find_config(root, config_name, prefers_hf=not has_tf1)
    values = _read_json(config_path)
    reject_folder(root, values, config_path)
    sizes = parse_config(values, str(config_path))
    vocab_path = find_vocab(tokenizer_folder)
    _reject_other_tokenizers(tokenizer_folder, vocab_path, sizes["family"], values)
    tokenizer = _read_tokenizer(vocab_path)  # parsed once, because it may be large
    check_vocab_size(count_vocab(vocab_path, tokenizer), sizes["vocab_size"], vocab_path, config_path)
    reject_tokenizer_settings(vocab_path, tokenizer)
    if tuned_model_dir is None:
        flag = "-model_dir" if adapter is None else "-base"
        checkpoint, checkpoint_format = find_checkpoint(root, ckpt_name, flag)
    else:
        tuned = require_folder(tuned_model_dir, "-tuned_model_dir")
        if has_adapter(tuned):
            reject_tuned_adapter(tuned, folder)
        checkpoint, checkpoint_format = find_checkpoint(tuned, ckpt_name, "-tuned_model_dir")
    return ModelConfig(
        model_dir=str(folder),
        config_path=str(config_path),
        vocab_path=str(vocab_path),
        checkpoint=checkpoint,
        checkpoint_format=checkpoint_format,
        is_tuned=tuned_model_dir is not None,
        head_class=head_class(values),
        own_code=own_code(values),
        adapter=adapter,
        **sizes,
    )


def parse_config(config_values: dict[str, Any], source: str) -> dict[str, Any]:
    """Converts a ``bert_config.json`` or ``config.json`` to the keyword arguments of ``ModelConfig``.

    Raises:
        ModelUnsupported: see ``load_model_config``.
        ModelConfigError: a key is missing, of the wrong type or out of range; the message names it.
    """
    family = find_family(config_values, source)
    values = Values(as_bert(config_values, family), source)
    _reject_other_architectures(values, family)
    hidden_size = values.positive("hidden_size")
    heads = values.positive("num_attention_heads")
    layers = values.positive("num_hidden_layers")
    if layers > MAX_LAYERS:
        raise ModelConfigError(
            f"{source}: num_hidden_layers is {layers}, more than {MAX_LAYERS}; copy the configuration of the model"
        )
    if hidden_size % heads:
        raise ModelConfigError(f"{source}: hidden_size {hidden_size} is not a multiple of num_attention_heads {heads}")
    eps = values.get("layer_norm_eps", 1e-12)
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not 0 < eps < 1:
        raise ModelConfigError(f"{source}: layer_norm_eps is {eps!r}; it must be a number between 0 and 1")
    architecture = read_architecture(values, family, Sizes(hidden_size, layers, hidden_size // heads))
    if architecture.embedding_size == 0 and values.get("embedding_size", hidden_size) != hidden_size:
        raise ModelUnsupported(
            f"{source}: embedding_size {values['embedding_size']} differs from hidden_size {hidden_size}, which "
            f"{family} does not have; copy the configuration of the model"
        )
    positions = read_positions(values, family)
    offset = position_offset(values, family, positions, source)
    return {
        "family": family,
        "position_offset": offset,
        "vocab_size": values.positive("vocab_size"),
        "hidden_size": hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": values.positive("intermediate_size"),
        "hidden_act": read_act(values, family),
        "max_position_embeddings": positions - offset,
        "type_vocab_size": _types(values, family, architecture),
        "layer_norm_eps": float(eps),
        "architecture": architecture,
    }


def _types(values: Values, family: str, architecture: Architecture) -> int:
    """Returns the number of types of tokens that a batch may have.

    Some families with one type take pairs too: the only row of the table is repeated, see ``weights``.
    """
    if not architecture.has_types or (FAMILIES[family].repeats_type and values.count("type_vocab_size", 1) < 2):
        return 2
    return values.positive("type_vocab_size", 2)


def _reject_other_tokenizers(folder: Path, vocab_path: Path, family: str, values: dict[str, Any]) -> None:
    """Rejects a ``vocab.txt`` that belongs to another tokenizer than BERT's, such as BertJapanese or MPNet's.

    Args:
        values: the configuration of the model, which may name the tokenizer if ``tokenizer_config.json`` does not.
    """
    if vocab_path.suffix == ".json":
        return
    path = folder / "tokenizer_config.json"
    name = (_read_json(path).get("tokenizer_class") if path.is_file() else None) or values.get("tokenizer_class")
    if name in (None, "PreTrainedTokenizerFast"):
        if FAMILIES[family].has_word_piece:
            return
        reason = f"{vocab_path}: the tokenizer of model_type {family}"
    elif name in _WORD_PIECE_CLASSES:
        return
    else:
        reason = f"tokenizer_class {name} of {folder}"
    raise ModelUnsupported(
        f"{reason} is not BERT's WordPiece; save the fast tokenizer, which writes a tokenizer.json: "
        "transformers.AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
    )


def _read_tokenizer(path: Path) -> dict[str, Any] | None:
    """Returns the content of a ``tokenizer.json``; None for a ``vocab.txt``."""
    reject_lfs_pointer(path)
    return _read_json(path) if path.suffix == ".json" else None


def count_vocab(path: Path, tokenizer: dict[str, Any] | None) -> int:
    """Returns the number of ids in a ``vocab.txt`` (one token per line) or a ``tokenizer.json``.

    Args:
        tokenizer: content of the ``tokenizer.json``; None for a ``vocab.txt``.

    Raises:
        ModelConfigError: the file is empty, is not UTF-8 text, or has no vocabulary.
    """
    if tokenizer is not None:
        try:
            vocab = tokenizer["model"]["vocab"]
            # Unigram lists its pieces, the other kinds map them to ids.
            ids = [len(vocab) - 1] if isinstance(vocab, list) else list(vocab.values())
            ids += [token["id"] for token in tokenizer.get("added_tokens") or []]
            return 1 + max(int(number) for number in ids)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ModelConfigError(f"{path} has no vocabulary ({error!r}); copy the file of the model") from error
    try:
        lines = path.read_text("utf-8").rstrip().split("\n")
    except UnicodeDecodeError as error:
        raise ModelConfigError(f"{path} is not UTF-8 text ({error}); copy the vocabulary of the model") from error
    if lines == [""]:
        raise ModelConfigError(f"{path} is empty; copy the vocabulary of the model")
    return len(lines)


def check_vocab_size(entries: int, vocab_size: int, vocab_path: Path, config_path: Path) -> None:
    """Raises ``ModelConfigError`` if the size of the vocabulary does not match ``vocab_size``."""
    if entries > vocab_size:
        raise ModelConfigError(
            f"{vocab_path} has {entries} entries, but the model has only {vocab_size} word embeddings "
            f"(vocab_size in {config_path.name}); the two belong to different models"
        )
    if vocab_size - entries > MAX_UNUSED_IDS:
        raise ModelConfigError(
            f"{vocab_path} has {entries} entries, but the model has {vocab_size} word embeddings (vocab_size in "
            f"{config_path.name}); the two belong to different models. If not, append [unused] lines to the vocabulary"
        )


def _read_json(path: Path) -> dict[str, Any]:
    reject_lfs_pointer(path)
    try:
        values = json.loads(path.read_text("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ModelConfigError(f"{path} is not UTF-8 text ({error}); copy the file again") from error
    except (ValueError, RecursionError) as error:
        raise ModelConfigError(f"{path} is not valid JSON ({error}); copy the file again") from error
    if not isinstance(values, dict):
        raise ModelConfigError(f"{path} contains a {type(values).__name__}; it must contain a JSON object")
    return values


def _reject_other_architectures(values: Values, family: str) -> None:
    needed = {"jina-bert": "alibi", "gte": "rope", "new": "rope"}.get(family, "absolute")
    position = values.get("position_embedding_type", needed)
    if position != needed:
        raise ModelUnsupported(
            f"{values.source}: position_embedding_type {position!r} is not supported; it must be {needed!r}"
        )
    if values.get("is_decoder", False):
        raise ModelUnsupported(f"{values.source}: is_decoder is true; only encoders are supported")
