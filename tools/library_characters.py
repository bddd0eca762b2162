"""Writes ``tokenization/library_characters.py``: the character classes of the library `tokenizers`.

    python3.10 -m pip install tokenizers==0.23.3
    python3.10 tools/library_characters.py

The library's BERT normalizer uses Unicode tables of its own. The script asks the library about every character, so the
result does not depend on Python's tables, except ``LOWER_CASE``: it has the letters that ``str.lower`` of the oldest
supported Python leaves unchanged. Run the script with that Python.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import tokenizers

TARGET = Path(__file__).parents[1] / "server" / "bert_serving" / "server" / "tokenization" / "library_characters.py"
OLDEST_PYTHON = (3, 10)
CODES = [*range(0xD800), *range(0xE000, sys.maxunicode + 1)]
#: Marks of the smallest and the largest combining class: each other mark changes places with one of them.
FIRST_MARK, LAST_MARK = "\u0334", "\u0345"


def normalizer(**parts: bool) -> tokenizers.normalizers.BertNormalizer:
    """Returns BERT's normalizer with the given parts alone."""
    return tokenizers.normalizers.BertNormalizer(
        **(dict.fromkeys(("clean_text", "handle_chinese_chars", "strip_accents", "lowercase"), False) | parts)
    )


def ranges(codes: Iterable[int]) -> str:
    """Returns ranges of code points in hexadecimal, ``first-last`` or ``first``, separated by spaces."""
    found: list[list[int]] = []
    for code in codes:
        if found and found[-1][1] == code - 1:
            found[-1][1] = code
        else:
            found.append([code, code])
    return " ".join(f"{first:x}" if first == last else f"{first:x}-{last:x}" for first, last in found)


def is_in_normal_form_table(char: str) -> bool:
    """Returns whether the library decomposes the character, or sorts it among combining marks."""
    nfd = tokenizers.normalizers.NFD().normalize_str
    return nfd(char) != char or any(nfd(text) != text for text in (char + FIRST_MARK, LAST_MARK + char))


def tables() -> Iterator[tuple[str, str, str]]:
    """Yields the name, the description and the value of each table."""
    clean = normalizer(clean_text=True).normalize_str
    chinese = normalizer(handle_chinese_chars=True).normalize_str
    strip = normalizer(strip_accents=True).normalize_str
    split = tokenizers.pre_tokenizers.BertPreTokenizer().pre_tokenize_str
    yield "REMOVED", "Characters that are removed.", ranges(code for code in CODES if not clean(chr(code)))
    yield "SPACES", "Characters that become a space.", ranges(code for code in CODES if clean(chr(code)) == " ")
    yield (
        "CHINESE",
        "Characters that are words of their own if Chinese characters are separated.",
        ranges(code for code in CODES if chinese(chr(code)) != chr(code)),
    )
    yield (
        "ACCENTS",
        "Characters that are removed with the accents.",
        ranges(code for code in CODES if not strip(chr(code))),
    )
    yield (
        "PUNCTUATION",
        "Characters that are words of their own.",
        ranges(code for code in CODES if len(split("a" + chr(code))) == 2),
    )
    yield (
        "NORMAL_FORM",
        "Characters that normal form D decomposes or sorts.",
        ranges(code for code in CODES if is_in_normal_form_table(chr(code))),
    )
    yield (
        "LOWER_CASE",
        "Letters whose lower case differs from that of the oldest supported Python: first-last:lower case of first.",
        lower_case(),
    )


def lower_case() -> str:
    """Returns the letters whose lower case differs from ``str.lower``, as ``first-last:lower case of first``."""
    lower = normalizer(lowercase=True).normalize_str
    found: list[list[int]] = []
    for code in CODES:
        text = lower(chr(code))
        if text == chr(code).lower():
            continue
        (target,) = map(ord, text)
        if found and found[-1][1] == code - 1 and code - found[-1][0] == target - found[-1][2]:
            found[-1][1] = code
        else:
            found.append([code, code, target])
    return " ".join(f"{first:x}-{last:x}:{target:x}" for first, last, target in found)


def wrapped(text: str) -> str:
    """Returns a literal of the text, in lines of at most 120 characters."""
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) > 108:
            lines.append("")
        lines[-1] += word + " "
    return "(\n" + "".join(f'    "{line}"\n' for line in lines) + ")"


def main() -> None:
    if sys.version_info[:2] != OLDEST_PYTHON:
        sys.exit(f"this is Python {sys.version.split()[0]}; run the script with {'.'.join(map(str, OLDEST_PYTHON))}")
    parts = [
        '"""Lists the characters of each class in the library `tokenizers`.\n\n'
        f"Written by ``tools/library_characters.py`` from tokenizers {tokenizers.__version__}. "
        'Ranges are hexadecimal.\n"""\n'
    ]
    for name, description, value in tables():
        parts += [f"#: {description}", f"{name} = {wrapped(value)}"]
    TARGET.write_text("\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
