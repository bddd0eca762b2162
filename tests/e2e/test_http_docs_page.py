"""Tests the page at ``/docs`` in Chromium: forms send requests and show the responses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bert_serving.server import __version__
from browser import Browser, needs_chromium
from http_calls import HttpServer, serving_http

pytestmark = needs_chromium


def form(path: str) -> str:
    return f'form[data-path="{path}"]'


def send(browser: Browser, path: str, body: str | None = None) -> None:
    """Opens the details of a route, fills its form and submits it."""
    browser.js("document.querySelector(arguments[0]).closest('details').open = true", form(path))
    if body is not None:
        area = browser.find(f"{form(path)} textarea")
        area.clear()
        area.send_keys(body)
    browser.find(f"{form(path)} button").click()


def response_text(browser: Browser, path: str, status: str) -> str:
    """Waits for the response and returns its displayed text."""
    browser.wait_text(f"{form(path)} pre", f"{status} ")
    return browser.text(f"{form(path)} pre")


@pytest.fixture(scope="module")
def zeros_server() -> Iterator[HttpServer]:
    with serving_http("-engine", "zeros") as server:
        yield server


def open_page(browser: Browser, server: HttpServer) -> None:
    browser.open(f"{server.url}/docs")


def test_form_sends_its_body_and_shows_the_response(browser: Browser, tmp_path: Path) -> None:
    with serving_http("-pooling_strategy", "CLS_TOKEN", "-http_jobs", tmp_path) as server:
        open_page(browser, server)
        assert f"version {__version__}" in browser.text("body")
        assert browser.text(f"{form('/encode')} pre") == ""
        send(browser, "/encode", '{"id": 7, "texts": ["hello world"]}')
        text = response_text(browser, "/encode", "200")
        vector = server.call("/encode", {"texts": ["hello world"]}).json["results"][0]
        value = vector[0]
        assert '"id": 7' in text
        assert f"{value:.4f}"[:7] in text, "the first number of the vector"
        assert f"{len(vector) - 2} more" in text, "the vector is folded"
        fold = browser.find(f"{form('/encode')} pre [role=button]")
        fold.send_keys("\n")
        assert fold.get_attribute("aria-expanded") == "true"
        assert fold.text.count(",") == len(vector) - 1
        browser.shot("api")
        browser.wait_fitting()
        send(browser, "/encode", "no JSON")
        assert "not JSON" in response_text(browser, "/encode", "400")
        send(browser, "/v1/embeddings")  # the example of the page
        assert '"object": "embedding"' in response_text(browser, "/v1/embeddings", "200")
        send(browser, "/readyz")
        assert '"ready"' in response_text(browser, "/readyz", "200")
        upload = "form[data-path='/v1/files'][data-verb=POST]"
        browser.js("document.querySelector(arguments[0]).closest('details').open = true", upload)
        browser.js("document.querySelector(arguments[0]).requestSubmit()", upload)
        browser.wait_text(f"{upload} pre", "200 ")
        assert "requests.jsonl" in browser.js(f"return document.querySelector(`{upload} pre`).textContent")
        browser.js("document.querySelector(arguments[0]).closest('details').open = true", form("/v1/files/{name}"))
        name = f"return document.querySelector(`{form('/v1/files/{name}')} input`).value"
        browser.wait(lambda: str(browser.js(name)).startswith("file-"), "the name of the file")
        browser.emulate(360, 740, "dark", mobile=True)
        browser.shot("api-phone-dark")
        browser.wait_fitting()
        server.server.stop()
        send(browser, "/readyz")
        browser.wait_text(f"{form('/readyz')} pre", "no response: ")


def test_every_route_has_a_form_whose_request_is_valid(browser: Browser, zeros_server: HttpServer) -> None:
    """A request that the page offers is answered, or refused with the reason that the server has another task."""
    open_page(browser, zeros_server)
    for route in browser.all(".route"):
        browser.js("arguments[0].open = true", route)
    browser.wait(lambda: browser.js("return document.querySelector('label input[required]').value"), "the name")
    browser.js("document.querySelectorAll('form[data-path]').forEach(form => form.requestSubmit())")
    first_words = (
        "return [...document.querySelectorAll('form[data-path]')].map("
        "form => [`${form.dataset.verb} ${form.dataset.path}`, form.querySelector('pre').textContent.slice(0, 4)])"
    )
    browser.wait(lambda: all(word[:3].isdigit() for _, word in browser.js(first_words)), "all responses")
    codes = {route: int(word) for route, word in browser.js(first_words)}
    paths = zeros_server.call("/openapi.json").json["paths"]
    assert codes.keys() == {f"{verb.upper()} {path}" for path in paths for verb in paths[path] if verb != "parameters"}
    other_task = {"/embed_all", "/embed_sparse", "/predict", "/rerank", "/v1/rerank", "/v2/rerank", "/classify"}
    assert {route: code for route, code in codes.items() if code != 200} == {f"POST {path}": 424 for path in other_task}
    browser.emulate(2200)
    browser.wait_fitting()


def test_a_request_is_copied_as_curl(browser: Browser, zeros_server: HttpServer) -> None:
    open_page(browser, zeros_server)
    browser.js("navigator.clipboard.writeText = async text => { window.copied = text }")

    def copied(path: str, note: str) -> str:
        browser.find(f"{form(path)} .curl").click()
        browser.wait_text(f"{form(path)} .note", note)
        return str(browser.js("return window.copied"))

    assert copied("/encode", "Copied.").startswith(
        f"curl '{zeros_server.url}/encode' \\\n  -H 'Content-Type: application/json'"
    )
    area = browser.find(f"{form('/encode')} textarea")
    area.clear()
    area.send_keys('{"id": "it\'s $HOME", "texts": ["a"]}')
    browser.find("#token").send_keys("secret")
    command = copied("/encode", "Set the variable TOKEN")
    assert "secret" not in command
    assert '-H "Authorization: Bearer $TOKEN"' in command
    if shutil.which("curl"):
        environment = {"PATH": os.environ["PATH"], "TOKEN": "unused"}
        reply = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, check=True, timeout=60)
        assert json.loads(reply.stdout)["id"] == "it's $HOME"


def test_a_form_sends_the_token(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("sesame")
    with serving_http("-engine", "zeros", "-http_token_file", file) as server:
        open_page(browser, server)
        send(browser, "/encode")
        assert "Authorization: Bearer" in response_text(browser, "/encode", "401")
        browser.find("#token").send_keys("wrong")
        send(browser, "/status/server")
        response_text(browser, "/status/server", "401")
        browser.find("#token").clear()
        browser.find("#token").send_keys("sesame")
        send(browser, "/encode")
        assert '"results"' in response_text(browser, "/encode", "200")
        send(browser, "/status/server")
        assert '"ready"' in response_text(browser, "/status/server", "200")
