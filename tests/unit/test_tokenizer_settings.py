"""Files beside the vocabulary that change the tokenizer, and files that are nearly BERT's WordPiece."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bert_serving.server.model.config import load_model_config
from bert_serving.server.model.errors import ModelConfigError, ModelError, ModelUnsupported
from bert_serving.server.tokenization.factory import load_tokenizer
from model_folders import TINY, hf_tensors, write_hf

tokenizers = pytest.importorskip("tokenizers", reason="the extra `tokenizers` is not installed")

TEXTS = ["Hello world", "[MASK] hello[SEP]x [NEW]", "HéLLO 你好 \u2603", "", "hello [UNK] ΑΣ"]


def bert_json() -> dict[str, Any]:
    """Returns a ``tokenizer.json`` with the vocabulary of the tiny model."""
    words = (TINY / "vocab.txt").read_text("utf-8").split()
    ids = {word: index for index, word in enumerate(words)}
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(ids, unk_token="[UNK]"))
    made.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    made.add_special_tokens(["[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    return dict(json.loads(made.to_str()))


def folder_with(folder: Path, files: dict[str, Any], has_json: bool = True) -> Path:
    write_hf(folder, hf_tensors())
    if has_json:
        (folder / "tokenizer.json").write_text(json.dumps(bert_json()), "utf-8")
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), "utf-8")
    return folder


SETTINGS = "tokenizer_config.json"


@pytest.mark.parametrize(
    ("files", "has_json", "error", "reason"),
    [
        ({SETTINGS: {"truncation_side": "left"}}, True, ModelUnsupported, "cuts long texts on the left"),
        ({SETTINGS: {"truncation_side": "left"}}, False, ModelUnsupported, "cuts long texts on the left"),
        ({SETTINGS: {"tokenizer_class": "BertTokenizer", "do_lower_case": False}}, True, ModelUnsupported,
         "do_lower_case False, but tokenizer.json has lowercase True"),
        ({SETTINGS: {"tokenizer_class": "BertTokenizerFast", "strip_accents": True}}, True, ModelUnsupported,
         "strip_accents True"),
        ({SETTINGS: {"tokenizer_class": "BertTokenizer", "tokenize_chinese_chars": False}}, True, ModelUnsupported,
         "tokenize_chinese_chars False"),
        ({SETTINGS: {"do_lower_case": False}}, True, ModelUnsupported, "do_lower_case False, but tokenizer.json has"),
        *(
            ({SETTINGS: named | {key: token}}, True, ModelUnsupported, f"{key} 'hello', but .* has '.{word}")
            for named in ({}, {"tokenizer_class": "BertTokenizer"}, {"tokenizer_class": "DistilBertTokenizerFast"})
            for key, word in (("cls_token", "CLS"), ("sep_token", "SEP"), ("unk_token", "UNK"))
            for token in ("hello", {"content": "hello"})
        ),
        ({"added_tokens.json": {"new": 99}}, True, ModelUnsupported, "added_tokens.json has the token 'new'"),
        ({"added_tokens.json": {"[MASK]": 99}}, True, ModelUnsupported, "'.MASK.' with the id 99, .* another id"),
        ({"added_tokens.json": {"new": 99}}, False, ModelUnsupported, "vocab.txt has no such token; save the fast"),
        ({SETTINGS: {"added_tokens_decoder": {"99": {"content": "new"}}}}, False, ModelUnsupported, "token 'new'"),
        ({SETTINGS: {"added_tokens_decoder": ["new"]}}, False, ModelConfigError, "must map ids to tokens"),
        ({SETTINGS: {"cls_token": "<s>"}}, False, ModelUnsupported, "cls_token is '<s>', but vocab.txt needs .CLS"),
        ({"special_tokens_map.json": {"sep_token": {"content": "</s>"}}}, False, ModelUnsupported, "sep_token is"),
        ({"added_tokens.json": []}, False, ModelConfigError, "JSON object"),
    ],
)  # fmt: skip
def test_settings_that_are_not_honoured_are_refused(
    tmp_path: Path, files: dict[str, Any], has_json: bool, error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        load_model_config(folder_with(tmp_path, files, has_json))


def test_a_class_without_a_family_takes_the_tokenizer_as_it_is(tmp_path: Path) -> None:
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "cls_token": "hello", "do_lower_case": False}
    load_model_config(folder_with(tmp_path, {SETTINGS: settings}))


def test_truncation_on_the_left_in_the_tokenizer_is_refused_unless_the_settings_say_otherwise(tmp_path: Path) -> None:
    left = {"direction": "Left", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    folder = folder_with(tmp_path, {"tokenizer.json": bert_json() | {"truncation": left}})
    with pytest.raises(ModelUnsupported, match="cuts long texts on the Left"):
        load_model_config(folder)
    (folder / SETTINGS).write_text(json.dumps({"truncation_side": "right"}))
    load_model_config(folder)


@pytest.mark.parametrize("has_json", [True, False])
def test_settings_that_repeat_the_vocabulary_are_accepted(tmp_path: Path, has_json: bool) -> None:
    ids = bert_json()["model"]["vocab"]
    files = {
        SETTINGS: {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": True,
            "strip_accents": None,
            "truncation_side": "right",
            "cls_token": {"content": "[CLS]"},
            "added_tokens_decoder": {str(ids["[MASK]"]): {"content": "[MASK]", "special": True}},
        },
        "added_tokens.json": {"[MASK]": ids["[MASK]"]},
        "special_tokens_map.json": {"unk_token": "[UNK]", "mask_token": "<mask>"},
    }
    load_model_config(folder_with(tmp_path, files, has_json))


def test_the_remedy_of_an_added_token_works(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    number = len((TINY / "vocab.txt").read_text("utf-8").split())
    tensors = hf_tensors()
    write_hf(tmp_path, tensors)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"newtoken": number}))
    with pytest.raises(ModelUnsupported, match="save the fast tokenizer"):
        load_model_config(tmp_path)
    transformers.AutoTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | {"vocab_size": max(number + 1, values["vocab_size"])}))
    load_model_config(tmp_path)
    read = load_tokenizer(tmp_path / "tokenizer.json", lower_case=None, max_seq_len=None, max_tokens=64)
    assert number in read.encode(["a newtoken b", "c"]).input_ids


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields the path of each value in a JSON object, but not of each word of the vocabulary."""
    if path:
        yield path
    if path == ("model", "vocab"):
        yield (*path, "hello")
    elif isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from paths(value[key], (*path, key))


REMOVED = object()
OTHERS = [REMOVED, None, True, False, 0, 1, -1, 7, 2**40, 0.5, "", "a", "[UNK]", [], ["a"], {}, {"type": "X"}]


def changed(content: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    content = copy.deepcopy(content)
    parent: Any = content
    for key in path[:-1]:
        parent = parent[key]
    if value is REMOVED:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return content


def test_any_change_of_one_value_gives_the_ids_of_the_library_or_is_refused(tmp_path: Path) -> None:
    content, path = bert_json(), tmp_path / "tokenizer.json"
    served = refused = 0
    for where in paths(content):
        for value in OTHERS:
            path.write_text(json.dumps(changed(content, where, value)), "utf-8")
            try:
                expected = [encoding.ids for encoding in tokenizers.Tokenizer.from_file(str(path)).encode_batch(TEXTS)]
            except BaseException:  # the library raises plain Exception, and panics
                expected = None
            try:
                ours = load_tokenizer(path, lower_case=None, max_seq_len=None, max_tokens=512)
                found = [ours.encode([text]).input_ids.tolist() for text in TEXTS]
            except (ModelError, ValueError):
                refused += 1
                continue
            if expected is None:  # the server does not read these values, so it need not find their mistakes
                assert where[0] in ("truncation", "decoder") or {"tokens", "id"} & {*where[3:]}, (where, value)
            else:
                assert found == expected, (where, value)
            served += 1
    assert served > 50
    assert refused > 500


def test_the_tokenizer_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_with(tmp_path, {"added_tokens.json": {}})
    read: list[str] = []
    read_text = Path.read_text

    def counted(path: Path, *args: Any, **kwargs: Any) -> str:
        read.append(path.name)
        return read_text(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", counted)
    assert load_model_config(folder).vocab_path == str(folder / "tokenizer.json")
    assert read.count("tokenizer.json") == 1
