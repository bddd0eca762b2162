"""tools/prose.py finds banned phrasings in prose, and leaves code alone."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def prose() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prose", ROOT / "tools" / "prose.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["prose"] = module  # NamedTuple looks its module up
    spec.loader.exec_module(module)
    return module


def found(prose: ModuleType, path: Path, text: str) -> list[tuple[int, str]]:
    path.write_text(text, encoding="utf-8")
    return [(finding.line, finding.text) for finding in prose.find(path, prose.read_phrasings())]


def test_prose_of_markdown_is_checked(prose: ModuleType, tmp_path: Path) -> None:
    text = "# Title\n\nThe call waits for\never.\n\n- Who asks gets a reply.\n"
    assert found(prose, tmp_path / "page.md", text) == [(6, "Who"), (3, "for ever")]


def test_code_and_tables_of_markdown_are_not_checked(prose: ModuleType, tmp_path: Path) -> None:
    text = "`for ever`\n\n```text\nfor ever\n```\n\n<!-- generated: x -->\nfor ever\n<!-- end -->\n\n[x](anew)\n"
    assert found(prose, tmp_path / "page.md", text) == []


def test_comments_and_strings_of_python_are_checked(prose: ModuleType, tmp_path: Path) -> None:
    text = '"""Waits for ever."""\n\nanew = 1  # and anew\n# it waits for\n# ever\nprint("in vain", f"{1} in vain")\n'
    assert sorted(found(prose, tmp_path / "module.py", text)) == [
        (1, "for ever"),
        (3, "anew"),
        (4, "for # ever"),
        (6, "in vain"),
        (6, "in vain"),
    ]


@pytest.mark.parametrize(("name", "marker"), [("x.yml", "#"), ("Makefile", "#"), ("x.mjs", "//")])
def test_only_comments_of_other_files_are_checked(prose: ModuleType, tmp_path: Path, name: str, marker: str) -> None:
    text = f"anew: anew\n{marker} asks anew\nin: vain  {marker} in vain\n"
    assert sorted(found(prose, tmp_path / name, text)) == [(2, "anew"), (3, "in vain")]


def test_a_sentence_may_use_who_inside_a_word(prose: ModuleType, tmp_path: Path) -> None:
    assert found(prose, tmp_path / "page.md", "The whole result. WHO.\n") == []


def test_the_list_is_valid(prose: ModuleType) -> None:
    phrasings = prose.read_phrasings()
    assert len(phrasings) > 20
    assert all(phrasing.instead for phrasing in phrasings)


def test_a_missing_path_is_an_error(prose: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert prose.main(["no/such/folder"]) == 2
    assert "no/such/folder" in capsys.readouterr().err


def test_what_is_checked_exists(prose: ModuleType) -> None:
    for name in [*prose.CHECKED, *prose.SKIPPED]:
        assert (ROOT / name).exists()
