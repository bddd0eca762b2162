"""The site of the docs: it builds without a warning, is whole, and needs nothing from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from browser import browsing, needs_chromium

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
    front = (site / "README.html").read_text(encoding="utf-8")
    for page in {ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")} - {ROOT / "docs" / "index.md"}:
        made = page.relative_to(ROOT).with_suffix(".html")
        assert (site / made).is_file()
        assert f'<a class="reference internal" href="{made.as_posix()}"' in front, f"{made} is not in the menu"
    assert "url=README.html" in (site / "index.html").read_text(encoding="utf-8")


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


@needs_chromium
def test_it_can_be_searched(site: Path, tmp_path: Path) -> None:
    handler = partial(SimpleHTTPRequestHandler, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http, browsing(tmp_path / "profile") as browser:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        try:
            url = f"http://127.0.0.1:{http.server_address[1]}"
            browser.open(url)
            browser.wait_text("h1", "bert-as-service")
            assert browser.driver.current_url.endswith("/README.html")
            browser.open(f"{url}/search.html?q=connect_timeout")
            found = '#search-results a[href*="docs/client.html"]'
            browser.wait(lambda: browser.all(found), "results of the search")
            browser.open(browser.all(found)[0].get_attribute("href"))  # the list still grows, so a click may miss it
            browser.wait_text("article", "connect_timeout")
            assert browser.complaints() == []
        finally:
            http.shutdown()  # before its socket is closed, of which its thread would complain
