"""The docs are true: their examples run, their commands parse, their links lead somewhere, their tables are the code's.

A ``python`` block runs against a real server, in the order of its page and with the names of the blocks before it,
unless a comment ``<!-- not run: why -->`` stands above it. ``<!-- server: FLAGS -->`` above a block says with which
flags the server of this block and those after it is started.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import inspect
import re
import shlex
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bert_serving.client import BertClient
from bert_serving.client._base import BaseClient
from bert_serving.client._cli.encode import get_parser as get_encode_parser
from bert_serving.server.benchmark.options import get_benchmark_parser
from bert_serving.server.cli.calibrate import get_parser as get_calibrate_parser
from bert_serving.server.cli.drift import get_parser as get_drift_parser
from bert_serving.server.cli.join import get_parser as get_join_parser
from bert_serving.server.cli.keygen import keygen
from bert_serving.server.cli.start import get_args_parser
from bert_serving.server.cli.terminate import get_shutdown_parser
from bert_serving.server.cluster.cli import get_parser as get_ray_parser
from bert_serving.server.model.default import default_model_dir
from model_folders import write_classifier
from servers import CACHE, TINY, Server, free_ports, serving

ROOT = Path(__file__).resolve().parents[2]
#: Pages whose examples have tests of their own, as those in docs/recipes.
TESTED_ELSEWHERE = {"client.md", "corpora.md"}
RECIPES = ROOT / "docs" / "recipes"
PAGES = sorted({ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *RECIPES.glob("*.md"), *ROOT.glob("*.md")})
ALL_MARKDOWN = sorted(
    {*PAGES, *ROOT.glob("*/README.md"), *(ROOT / ".github").rglob("*.md"), *(ROOT / "tests" / "data").rglob("*.md")}
)

BLOCK = re.compile(r"^((?:<!-- .*? -->\n)*)```(\w+)[^\n]*\n(.*?)^```", re.M | re.S)
needs_default_model = pytest.mark.skipif(default_model_dir() is None, reason="the default model is not installed")
PLACEHOLDER_HTTP = "8125"
PLACEHOLDER_MODEL = "/models/uncased_L-12_H-768_A-12"


def ids(paths: list[Path]) -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in paths]


def blocks(page: Path, language: str) -> Iterator[tuple[int, str, str]]:
    """Line, comments above and code of each block in ``language``."""
    text = page.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        if match[2] == language:
            yield text.count("\n", 0, match.start(3)), match[1], match[3]


# -- Python -----------------------------------------------------------------------------------------------------------

WITH_PYTHON = [
    page
    for page in PAGES
    if page.name not in TESTED_ELSEWHERE
    and page.parent != RECIPES
    and any("not run" not in above for _, above, _ in blocks(page, "python"))
]


class Reader:
    """Runs the examples of a page in order, as a reader does."""

    def __init__(self, page: Path, shared: Server, patch: pytest.MonkeyPatch, stack: contextlib.ExitStack) -> None:
        self.page, self.patch, self.stack = page, patch, stack
        self.names: dict[str, Any] = {"__name__": "docs"}
        self.http_port = ""
        self.use(shared)

    def use(self, server: Server) -> None:
        """The pages speak of the default ports; here they are those of ``server``."""
        self.server = server
        spec = inspect.getfullargspec(BaseClient.__init__)
        defaults = dict(zip(spec.args[1:], BaseClient.__init__.__defaults__ or (), strict=True))
        defaults.update(port=server.port, port_out=server.port_out)
        self.patch.setattr(BaseClient.__init__, "__defaults__", tuple(defaults.values()))

    def run(self, line: int, above: str, code: str) -> None:
        flags = re.search(r"<!-- server: (.*?) -->", above)
        if flags:
            arguments = shlex.split(flags[1])
            if PLACEHOLDER_HTTP in arguments:
                self.http_port = str(free_ports(1)[0])
                arguments[arguments.index(PLACEHOLDER_HTTP)] = self.http_port
            model = {"model_dir": write_classifier(Path(tempfile.mkdtemp(dir=CACHE)))} if "-task" in arguments else {}
            self.use(self.stack.enter_context(serving(*arguments, **model)))
        if PLACEHOLDER_HTTP in code and not self.http_port:
            self.http_port = str(free_ports(1)[0])
            self.use(self.stack.enter_context(serving("-http_port", self.http_port)))
        port, port_out = self.server.port, self.server.port_out
        if "BertServer(" in code:  # a server of its own
            port, port_out = free_ports()
            code = code.replace('["-model_dir"', f'["-cpu", "-graph_tmp_dir", {CACHE!r}, "-model_dir"')
        code = code.replace("5555", str(port)).replace("5556", str(port_out)).replace(PLACEHOLDER_MODEL, str(TINY))
        code = code.replace(PLACEHOLDER_HTTP, self.http_port)
        code = code.replace("docs/faq.md", str(ROOT / "docs" / "faq.md"))
        exec(compile("\n" * line + code, str(self.page), "exec"), self.names)


# The tiny model's short max_seq_len cuts texts of the examples.
@pytest.mark.filterwarnings("ignore:.* texts are longer than the server's max_seq_len:UserWarning")
@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed:UserWarning:keras")
@pytest.mark.parametrize("page", WITH_PYTHON, ids=ids(WITH_PYTHON))
def test_examples_run(
    page: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)  # for those that write files
    with contextlib.ExitStack() as stack:
        reader = Reader(page, server, monkeypatch, stack)
        for line, above, code in blocks(page, "python"):
            if "not run" not in above:
                reader.run(line, above, code)
        for value in list(reader.names.values()):
            if isinstance(value, BertClient):
                value.close()


@needs_default_model
def test_the_quickstart_prints_what_the_readme_shows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = ROOT / "README.md"
    shown = re.findall(
        r"^<!-- printed: the default model -->\n```python\n(.*?)^```\n\n```text\n(.*?)^```",
        readme.read_text(encoding="utf-8"),
        re.M | re.S,
    )
    assert len(shown) == 1
    code, output = shown[0]
    with serving(model_dir=None) as server, contextlib.ExitStack() as stack:
        reader = Reader(readme, server, monkeypatch, stack)
        reader.run(0, "", code)
        reader.names["bc"].close()
    assert capsys.readouterr().out == output


def test_what_is_not_run_says_why() -> None:
    for page in PAGES:
        for line, above, _ in blocks(page, "python"):
            if "not run" in above:
                assert re.search(r"<!-- not run: \S.{8,} -->", above), f"{page.name}:{line}"


# -- commands ---------------------------------------------------------------------------------------------------------

PARSERS: dict[str, Callable[[], argparse.ArgumentParser]] = {
    "bert-serving-benchmark": get_benchmark_parser,
    "bert-serving-calibrate": get_calibrate_parser,
    "bert-serving-drift": get_drift_parser,
    "bert-serving-start": get_args_parser,
    "bert-serving-terminate": get_shutdown_parser,
    "bert-serving-encode": get_encode_parser,
    "bert-serving-join": get_join_parser,
    "bert-serving-ray": get_ray_parser,
}


def commands() -> Iterator[Any]:
    for page in ALL_MARKDOWN:
        for line, _, code in blocks(page, "bash"):
            joined = code.replace("\\\n", " ")
            for command in joined.splitlines():
                words = shlex.split(command, comments=True)
                name = next((name for name in PARSERS if name in words), None)
                if name is not None:
                    yield pytest.param(name, words[words.index(name) + 1 :], id=f"{page.name}:{line}:{name}")


@pytest.mark.parametrize(("name", "words"), list(commands()))
def test_commands_parse(name: str, words: list[str]) -> None:
    words = [word for word in words if word not in ("&", "--help")]
    try:
        parsed = PARSERS[name]().parse_args(words)
    except SystemExit:
        pytest.fail(f"{name} does not take {words}")
    assert isinstance(parsed, argparse.Namespace)


def test_commands_are_installed() -> None:
    scripts = "".join((ROOT / part / "pyproject.toml").read_text("utf-8") for part in ("client", "server"))
    for page in PAGES:
        for _, _, code in blocks(page, "bash"):
            for name in re.findall(r"^(bert-serving-\S+)", code, re.M):
                assert f"{name} = " in scripts, f"{page.name}: {name}"


def test_keys_are_made_as_the_docs_say(tmp_path: Path) -> None:
    makers = re.findall(r"^bert-serving-keygen \S+ (.+)$", (ROOT / "docs" / "server.md").read_text("utf-8"), re.M)
    assert makers
    for names in makers:
        assert keygen([str(tmp_path / "keys"), *names.split()]) == 0
        assert (tmp_path / "keys" / f"{names.split()[0]}.key_secret").is_file()


def test_flags_in_the_text_exist() -> None:
    known = {flag for make in PARSERS.values() for action in make()._actions for flag in action.option_strings}
    other = {"-e", "-L", "-X", "-H", "-d", "-m", "-U"}  # of pip, python and curl
    for page in PAGES:
        if page.name == "CHANGELOG.md":
            continue
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        for quoted in re.findall(r"`(-[a-z][^`]*)`", text):
            flag = re.split(r"[\s=]", quoted)[0]
            assert flag in known | other, f"{page.name}: {quoted}"


# -- links and tables -------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.*?) *$", text, re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        unique, number = slug, 0
        while unique in found:
            number += 1
            unique = f"{slug}-{number}"
        found.add(unique)
    return found


@pytest.mark.parametrize("page", ALL_MARKDOWN, ids=ids(ALL_MARKDOWN))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    text = re.sub(r"`[^`\n]*`", "", text)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.name} links to {target}, which is not there"
        assert linked.is_relative_to(ROOT), f"{page.name} links to {target}, outside the repository"
        if anchor:
            assert anchor in anchors(linked), (
                f"{page.name} links to {target}; the headings are {sorted(anchors(linked))}"
            )


def generator() -> ModuleType:
    return script(ROOT / "docs" / "generate.py")


def script(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_tables_are_up_to_date() -> None:
    generate = generator()
    marked = set()
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        text = page.read_text(encoding="utf-8")
        marked |= {name for _, name, _ in generate.BLOCK.findall(text)}
        assert generate.render(text) == text, f"{page.name}: run python docs/generate.py"
    assert marked == set(generate.TABLES)
    for path in generate.ROUTE_LISTS:
        assert generate.render_routes(path) == path.read_text("utf-8"), f"{path.name}: run python docs/generate.py"


def test_the_picture_shows_what_was_measured() -> None:
    picture = script(ROOT / "benchmark" / "picture.py")
    systems = picture.rows(picture.PAGE.read_text(encoding="utf-8"), "BERT-base shape")
    assert any(name.startswith("this") for name, _ in systems)
    drawn = picture.PICTURE.read_bytes()
    assert repr(systems[::-1]).encode() in drawn, "run python benchmark/picture.py"


def test_the_table_of_the_client_has_its_defaults() -> None:
    page = (ROOT / "docs" / "client.md").read_text(encoding="utf-8")
    for name, parameter in inspect.signature(BertClient).parameters.items():
        row = next((line for line in page.splitlines() if line.startswith("|") and f"`{name}`" in line), None)
        assert row is not None, f"docs/client.md does not explain {name}"
        default = parameter.default
        if default is not None:
            shown = f'`"{default}"`' if isinstance(default, str) else f"`{default}`"
            assert shown in row, f"docs/client.md gives another default for {name} than {default!r}"


def test_every_page_is_in_the_index() -> None:
    docs = ROOT / "docs"
    index, benchmark = (docs.joinpath(f"{name}.md").read_text(encoding="utf-8") for name in ("index", "benchmark"))
    for page in docs.glob("*.md"):
        listed = benchmark if page.name.startswith("benchmark-") else index
        assert page.name == "index.md" or f"]({page.name})" in listed
