"""The site of the docs: it builds without a warning, is whole, and needs nothing from elsewhere."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

from bert_serving.server.config.options import OPTIONS
from browser import Browser, needs_chromium

pytest.importorskip("sphinx", reason="make docs installs it")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    options = ["-E", "-W", "--keep-going", "-q", "-c", "docs/site", "-d", str(folder / "doctrees"), "-b", "html"]
    command = [sys.executable, "-m", "sphinx", *options, ".", str(folder / "html")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return folder / "html"


def test_every_page_is_there(site: Path) -> None:
    landing = (site / "docs" / "index.html").read_text(encoding="utf-8")
    pages = {ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")} - {ROOT / "docs" / "index.md"}
    for page in pages:
        made = page.relative_to(ROOT).with_suffix(".html")
        assert (site / made).is_file()
        link = made.relative_to("docs").as_posix() if made.parts[0] == "docs" else f"../{made.as_posix()}"
        assert f'<a class="reference internal" href="{link}"' in landing, f"{made} is not in the menu"
    for recipe in (ROOT / "docs" / "recipes").glob("*.md"):
        assert (site / recipe.relative_to(ROOT).with_suffix(".html")).is_file()
    assert "url=docs/index.html" in (site / "index.html").read_text(encoding="utf-8")


def test_the_landing_page_has_a_picture_and_four_doors(site: Path) -> None:
    landing = (site / "docs" / "index.html").read_text(encoding="utf-8")
    doors = re.search(r'<ul class="doors[^>]*>(.*?)</ul>', landing, re.S)
    assert doors is not None
    assert re.findall(r'href="#([\w-]+)"', doors[1]) == ["use-it", "run-it", "understand-it", "extend-it"]
    assert landing.index("overview.svg") < doors.start()


def test_drawings_have_real_text_and_dark_colours() -> None:
    for name in ("overview", "architecture", "request", "cluster"):
        drawing = (ROOT / "docs" / "images" / f"{name}.svg").read_text(encoding="utf-8")
        assert drawing.count("<text") > 10
        assert "@media (prefers-color-scheme: dark)" in drawing
        assert "<title" in drawing


def test_the_api_is_explained(site: Path) -> None:
    client = (site / "docs" / "site" / "api" / "client.html").read_text()
    for name in ("BertClient.encode", "AsyncBertClient.encode", "ServerUnreachableError"):
        assert f'id="bert_serving.client.{name}"' in client or f'id="bert_serving.client.errors.{name}"' in client
    assert "a writable float array" in client.lower()
    server = (site / "docs" / "site" / "api" / "server.html").read_text()
    assert 'id="bert_serving.server.engines.base.Engine.encode"' in server


def test_nothing_comes_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        for tag in re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", page.read_text(encoding="utf-8")):
            assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", tag), f"{page.name}: {tag}"
    for style in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", style.read_text(encoding="utf-8")), style.name


@contextlib.contextmanager
def hosted(folder: Path) -> Iterator[str]:
    """Serves a folder over HTTP. Yields its URL."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{http.server_address[1]}"
        finally:
            http.shutdown()  # before its socket is closed, of which its thread would complain


@needs_chromium
def test_it_can_be_searched(site: Path, browser: Browser) -> None:
    with hosted(site) as url:
        browser.open(url)
        browser.wait_text("h1", "bert-as-service")
        assert browser.driver.current_url.endswith("/docs/index.html")
        browser.open(f"{url}/search.html?q=connect_timeout")
        found = '#search-results a[href*="docs/client.html"]'
        browser.wait(lambda: browser.all(found), "results of the search")
        browser.open(browser.all(found)[0].get_attribute("href"))  # the list still grows, so a click may miss it
        browser.wait_text("article", "connect_timeout")


#: Returns the address of the first result for each query.
FIRST_RESULTS = """
return arguments[0].map(query => {
  Scorer.query = () => query;
  const results = Search._performSearch(...Search._parseQuery(query));
  const best = results[results.length - 1];
  return best[0] + best[2];
})
"""


@needs_chromium
def test_the_search_finds_the_entry_of_each_option_first(site: Path, browser: Browser) -> None:
    names = {
        option.flag or name: f"docs/server#bert-serving-start-{option.flag or name}" for name, option in OPTIONS.items()
    }
    aliases = {alias: names[option.flag or name] for name, option in OPTIONS.items() for alias in option.aliases}
    queries = {**names, **aliases}
    queries |= {f"-{name}": target for name, target in names.items()}
    queries |= {f"--{name.replace('_', '-')}": target for name, target in names.items()}
    queries |= {f"BERT_SERVING_{name.upper()}": target for name, target in names.items()}
    queries["connect_timeout"] = "docs/client#BertClient-connect_timeout"
    queries["show_tokens"] = "docs/client#BertClient.encode-show_tokens"
    page = (site / "docs" / "server.html").read_text(encoding="utf-8")
    with hosted(site) as url:
        browser.open(f"{url}/search.html?q=max_seq_len")
        browser.wait(lambda: browser.all("#search-results li"), "results of the search")
        first = browser.all("#search-results li")[0]
        assert first.text == "max_seq_len (option of bert-serving-start, in The server)"
        found = dict(zip(queries, browser.js(FIRST_RESULTS, list(queries)), strict=True))
        browser.open(f"{url}/docs/server.html#bert-serving-start-max_seq_len")
        assert browser.js("return document.querySelector('tr:target').innerText").startswith("-max_seq_len")
    assert {query: found[query] for query in queries if found[query] != queries[query]} == {}
    assert all(f'id="{target.partition("#")[2]}"' in page for target in names.values())


def publisher() -> ModuleType:
    spec = importlib.util.spec_from_file_location("publish", ROOT / "docs" / "site" / "publish.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_versions_are_listed_from_the_latest(tmp_path: Path) -> None:
    publish = publisher().publish
    site, pages = tmp_path / "site", tmp_path / "pages"
    site.mkdir()
    with pytest.raises(FileNotFoundError, match="make docs"):
        publish(site, pages, "main")
    (site / "index.html").write_text("a site", encoding="utf-8")
    for name in ("", "..", ".git", "a/b"):
        with pytest.raises(ValueError, match="name of a version"):
            publish(site, pages, name)
    publish(site, pages, "main")
    assert "url=main/" in (pages / "index.html").read_text(encoding="utf-8")
    for name in ("2.9.0", "2.10.0", "2.0.1"):
        publish(site, pages, name)
    listed = json.loads((pages / "versions.json").read_text(encoding="utf-8"))
    assert listed == {"versions": ["main", "2.10.0", "2.9.0", "2.0.1"], "latest": "2.10.0"}
    assert "url=2.10.0/" in (pages / "index.html").read_text(encoding="utf-8")
    (site / "page.html").write_text("a new page", encoding="utf-8")
    publish(site, pages, "main")
    assert (pages / "main" / "page.html").is_file()


@needs_chromium
def test_the_switcher_leads_to_the_same_page_of_another_version(site: Path, tmp_path: Path, browser: Browser) -> None:
    publish = publisher().publish
    old = tmp_path / "old"
    old.mkdir()
    (old / "index.html").write_text("<h1>the old version</h1>", encoding="utf-8")
    publish(site, tmp_path / "pages", "main")
    publish(site, tmp_path / "pages", "2.1.0")
    publish(old, tmp_path / "pages", "2.0.0")
    choose = "const list = document.getElementById('versions'); list.value = arguments[0]; list.onchange()"
    with hosted(tmp_path / "pages") as url:
        browser.open(f"{url}/main/docs/client.html")
        browser.wait(lambda: browser.js("return !document.querySelector('.versions').hidden"), "the switcher")
        assert browser.js("return [...document.getElementById('versions').options].map(o => o.value)") == [
            "main",
            "2.1.0",
            "2.0.0",
        ]
        browser.wait_text(".other-version", "The latest release is 2.1.0.")
        browser.js(choose, "2.1.0")
        browser.wait(lambda: browser.driver.current_url == f"{url}/2.1.0/docs/client.html", "the same page")
        browser.wait(lambda: browser.js("return !document.querySelector('.versions').hidden"), "the switcher")
        assert browser.js("return document.querySelector('.other-version').hidden")
        browser.js(choose, "2.0.0")
        browser.wait_text("h1", "the old version")  # it does not have this page
    with hosted(site) as url:  # a site without others
        browser.open(f"{url}/docs/client.html")
        browser.wait_text("h1", "The client")
        assert browser.js("return document.querySelector('.versions').hidden")
