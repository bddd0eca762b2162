"""Writes tokenizers as each family has them: transformers' classes, with small vocabularies trained on a few texts."""

# ruff: noqa: RUF001 (ambiguous letters are intended)

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

#: Several scripts, and sequences of characters that only belong together: marks, joiners, variation selectors.
MULTILINGUAL = [
    "Fußgängerübergänge überqueren, GRÖSSE 42 — „Zitat“ und ‚Zitat‘",
    "L’été dernier, où êtes-vous allés ? «Noël» à 20 €, cœur",
    "我喜欢在北京吃烤鸭。２０２４年，价格：￥１００！𠀀𫤠",
    "東京タワーは高さ３３３メートルです。ｶﾀｶﾅ ガ か\u3099 々〆",
    "أُحِبُّ القِراءةَ في المَساءِ؛ العدد ١٢٣٤٥ ﷺ لا",
    "ภาษาไทยไม่มีช่องว่างระหว่างคำ ราคา ๑๒๓ บาท",
    "मुझे हिन्दी में किताबें पढ़ना पसंद है। क्‍ष क्षि १२३",
    "한국어 문장을 토큰으로 나눕니다. 각 ㈜ ㎏",
    "Ελληνικά: ΟΔΥΣΣΕΥΣ, ὀξεῖα ᾼ",
    "Привет, МИР! Ёлка й и\u0306",
    "İstanbul'da ılık IŞIK ǅ ŉ",
    "👩‍👩‍👧‍👦 👍🏽 🇩🇪 ❤️ ☺︎ 1️⃣ 🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "e\u0301\u0323 a\u0302\u0301 Z͑ͫ̓a̡͊͠l̶g͝o \u0344",
    "soft\u00adhyphen zero\u200bwidth no\u00a0break \ufeff bom \u2028 line \x85 next",
    "ﬁne ½ ² Ⅷ ℃ Å Ω ㎡ ＡＢＣ",
    "unassigned \u0378 \u2fe0 private \ue000 new \u1c89 \U0001e2ae \U0001faf8 \u166d \U000111c9",
]
#: Texts of the vocabularies: some of the above, so that the others have unknown parts.
_SEEN = [*MULTILINGUAL[:6], "hello world, who is it? it is me", "A cat sat on the mat and saw the cats of others"] * 20
_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
_BERT_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SIZE = 400


def _trained(model: Any, trainer: Any, pre_tokenizer: Any) -> dict[str, Any]:
    """Returns the model of a tokenizer that is trained on the texts, as in a ``tokenizer.json``."""
    import tokenizers

    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = pre_tokenizer
    made.train_from_iterator(_SEEN, trainer)
    model_values: dict[str, Any] = json.loads(made.to_str())["model"]
    return model_values


def _unigram(special: Iterable[str], unknown: str) -> list[tuple[str, float]]:
    import tokenizers

    trainer = tokenizers.trainers.UnigramTrainer(
        vocab_size=SIZE, special_tokens=list(special), unk_token=unknown, show_progress=False
    )
    space = tokenizers.pre_tokenizers
    steps = space.Sequence([space.WhitespaceSplit(), space.Metaspace()])
    return [(piece, score) for piece, score in _trained(tokenizers.models.Unigram(), trainer, steps)["vocab"]]


def _word_piece(special: Iterable[str], first: Iterable[str] = ()) -> dict[str, int]:
    import tokenizers

    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=SIZE, special_tokens=[*first, *special], show_progress=False
    )
    model = tokenizers.models.WordPiece(unk_token="[UNK]")
    found: dict[str, int] = _trained(model, trainer, tokenizers.pre_tokenizers.BertPreTokenizer())["vocab"]
    return found


def _byte_pairs(special: Iterable[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    import tokenizers

    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=SIZE,
        special_tokens=list(special),
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    space = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    found = _trained(tokenizers.models.BPE(), trainer, space)
    return found["vocab"], [(first, second) for first, second in found["merges"]]


def mpnet() -> Any:
    """WordPiece between ``<s>`` and ``</s>``. The vocabulary has BERT's special tokens too."""
    import transformers

    return transformers.MPNetTokenizer(vocab=_word_piece([*_BERT_SPECIAL, "<mask>"], _SPECIAL))


def roberta() -> Any:
    """BPE of bytes, which knows every text."""
    import transformers

    vocab, merges = _byte_pairs([*_SPECIAL, "<mask>"])
    return transformers.RobertaTokenizer(vocab=vocab, merges=merges)


def modernbert() -> Any:
    """BPE of bytes between BERT's special tokens, which are not the first of the vocabulary."""
    import tokenizers
    import transformers

    vocab, merges = _byte_pairs(["|||IP_ADDRESS|||", "<|padding|>", *_BERT_SPECIAL])
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, merges))
    made.normalizer = tokenizers.normalizers.NFC()
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    names = dict(zip(("pad", "unk", "cls", "sep", "mask"), _BERT_SPECIAL, strict=True))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, **{f"{name}_token": token for name, token in names.items()}
    )


def xlm_roberta() -> Any:
    import transformers

    return transformers.XLMRobertaTokenizer(vocab=_unigram(_SPECIAL, "<unk>"))


def camembert() -> Any:
    """Unigram with unused pieces in front, so that padding is not 1 and ``<s>`` is not 0."""
    import transformers

    pieces = _unigram(["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "<s>", "</s>"], "<unk>")
    return transformers.CamembertTokenizer(vocab=[*pieces, ("<mask>", 0.0)])


def albert() -> Any:
    """Unigram that lower-cases and strips accents."""
    import transformers

    return transformers.AlbertTokenizer(vocab=_unigram(["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"], "<unk>"))


def deberta() -> Any:
    import transformers

    return transformers.DebertaV2Tokenizer(vocab=_unigram(["[PAD]", "[CLS]", "[SEP]", "[UNK]"], "[UNK]"), unk_id=3)


def bert() -> Any:
    import transformers

    return transformers.BertTokenizer(vocab=_word_piece(_BERT_SPECIAL))


#: Family → its tokenizer. GTE has that of XLM-RoBERTa or BERT, Nomic-BERT that of BERT.
TOKENIZERS: dict[str, Callable[[], Any]] = {
    "mpnet": mpnet,
    "roberta": roberta,
    "modernbert": modernbert,
    "xlm-roberta": xlm_roberta,
    "camembert": camembert,
    "albert": albert,
    "deberta-v2": deberta,
    "nomic_bert": bert,
}


def write_tokenizer(folder: Path, family: str) -> Any:
    """Writes the tokenizer of a family to a folder; returns what ``AutoTokenizer`` reads from it."""
    import transformers

    TOKENIZERS[family]().save_pretrained(folder)
    return transformers.AutoTokenizer.from_pretrained(folder)
