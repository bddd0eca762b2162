"""The types that mypy infers from calls of the client."""

from __future__ import annotations

import ast
import inspect
import os
import re
from pathlib import Path

import pytest

import bert_serving.client
from bert_serving.client import AsyncBertClient, BertClient

api = pytest.importorskip("mypy.api")

ROOT = Path(__file__).resolve().parents[2]

#: Expressions and their types; ``array`` and ``nested`` stand for the two formats of vectors.
EXPRESSIONS = {
    'bc.encode(["a"])': "array",
    'bc.encode(["a"], blocking=True, show_tokens=False)': "array",
    'bc.encode([["a"]], is_tokenized=True, batch_size=2, timings=[])': "array",
    'bc.encode(["a"], show_tokens=True)': "tuple[array, tokens]",
    'bc.encode(["a"], long="mean", normalize=True)': "array",
    'bc.encode(["a"], long="chunks", dimensions=3).embedding': "array",
    'bc.encode(["a"], long="chunks").parts[0].start': "int",
    '(await AsyncBertClient().encode(["a"], long="chunks")).embedding': "array",
    'bc.encode(["a"], blocking=flag)': "array | tuple[array, tokens] | None",
    "bc.fetch_all()": "list[array] | None",
    "bc.fetch_all(False)": "list[array] | None",
    "bc.fetch_all(concat=True)": "array | None",
    "next(bc.fetch())": "Response[array]",
    "next(bc.fetch()).embedding": "array",
    "next(bc.fetch()).tokens": "tokens",
    "next(bc.fetch()).shape": "tuple[int, ...]",
    'next(bc.encode_async([["a"]])).embedding': "array",
    "next(bc.listen()).embedding": "array",
    "annotated.encode([])": "array",
    'bc.encode([("a", "b")], raw_scores=True)': "array",
    'bc.classify(["a"], True)[0].scores["b"]': "float",
    'bc.rerank("a", ["b"], 1)[0].index': "int",
    'BertClient(output_fmt="list").rerank("a", ["b"])[0].score': "float",
    'ConcurrentBertClient(2).classify([("a", "b")])[0].label': "str",
    '(await AsyncBertClient().rerank("a", ["b"], top_n=1))[0].score': "float",
    'BertClient(output_fmt="list", timeout=1).encode(["a"])': "nested",
    'BertClient("localhost", 5555, 5556, "list").fetch_all()': "list[nested] | None",
    'BertClient(output_fmt="list").fetch_all(concat=True)': "nested | None",
    'bc.similarity(["a"], ["b"])': "array",
    'await AsyncBertClient(output_fmt="list").similarity(["a"], [[1.0]])': "nested",
    'ConcurrentBertClient(2).encode(["a"])': "array",
    'ConcurrentBertClient(2, output_fmt="list").encode(["a"])': "nested",
    'await AsyncBertClient().encode(["a"])': "array",
    'await AsyncBertClient(output_fmt="list").encode(["a"], show_tokens=True)': "tuple[nested, tokens]",
    "(await anext(AsyncBertClient().encode_async([]))).embedding": "array",
    "(await anext(AsyncBertClient().listen())).embedding": "array",
}
SHORT = {
    "numpy.ndarray[tuple[int, ...], numpy.dtype[numpy.floating[numpy._typing._nbit_base._32Bit]]]": "array",
    "list[list[float]] | list[list[list[float]]]": "nested",
    "list[list[str]] | str": "tokens",
}
HEAD = """\
from bert_serving.client import AsyncBertClient, BertClient, ConcurrentBertClient

async def use(bc: BertClient, annotated: BertClient, flag: bool) -> None:
    bc = BertClient()
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("typing")
    lines = [f"    reveal_type({expression})\n" for expression in EXPRESSIONS]
    (folder / "use.py").write_text(HEAD + "".join(lines) + '    bc.encode(["a"], blocking=False)\n')
    options = ["--strict", "--python-version", "3.10", "--namespace-packages", "--explicit-package-bases"]
    before = os.environ.get("MYPYPATH")
    os.environ["MYPYPATH"] = str(ROOT / "client")
    try:
        output, errors, _ = api.run([*options, "--cache-dir", str(ROOT / ".mypy_cache"), str(folder / "use.py")])
    finally:
        os.environ.pop("MYPYPATH")
        if before is not None:
            os.environ["MYPYPATH"] = before
    assert not errors
    return output


def test_no_expression_is_any(report: str) -> None:
    found = [re.sub(r"\bbuiltins\.", "", text) for text in re.findall(r'Revealed type is "(.*)"', report)]
    assert not [text for text in found if "Any" in text]
    for long, short in SHORT.items():
        found = [text.replace(long, short) for text in found]
    found = [re.sub(r"^tuple\[int, array, tokens, fallback=.*\.(Response.*)\]$", r"\1", text) for text in found]
    assert dict(zip(EXPRESSIONS, found, strict=True)) == EXPRESSIONS


def test_there_are_no_errors(report: str) -> None:
    assert "error:" not in report, report


@pytest.mark.parametrize("client", [BertClient, AsyncBertClient])
def test_the_first_overload_of_the_constructor_has_the_real_defaults(client: type) -> None:
    (body,) = ast.parse(inspect.getsource(client)).body
    overload = next(node for node in ast.walk(body) if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    arguments = [*overload.args.args[1:], *overload.args.kwonlyargs]
    defaults = [*overload.args.defaults, *overload.args.kw_defaults]
    declared = {each.arg: ast.literal_eval(value) for each, value in zip(arguments, defaults, strict=True) if value}
    assert declared == {each.name: each.default for each in inspect.signature(client).parameters.values()}


def test_the_marker_of_types_is_shipped() -> None:
    assert (Path(bert_serving.client.__file__).parent / "py.typed").is_file()
