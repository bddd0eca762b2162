"""Tests the page at ``/docs`` in Chromium: forms send requests and show the responses."""

from __future__ import annotations

from pathlib import Path

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


def open_page(browser: Browser, server: HttpServer) -> None:
    browser.open(f"{server.url}/docs")


def test_form_sends_its_body_and_shows_the_response(browser: Browser) -> None:
    with serving_http("-pooling_strategy", "CLS_TOKEN") as server:
        open_page(browser, server)
        assert f"version {__version__}" in browser.text("body")
        assert browser.text(f"{form('/encode')} pre") == ""
        send(browser, "/encode", '{"id": 7, "texts": ["hello world"]}')
        text = response_text(browser, "/encode", "200")
        value = server.call("/encode", {"texts": ["hello world"]}).json["results"][0][0]
        assert '"id": 7' in text
        assert f"{value:.4f}"[:7] in text, "the first number of the vector"
        browser.shot("api")
        browser.wait_fitting()
        send(browser, "/encode", "no JSON")
        assert "not JSON" in response_text(browser, "/encode", "400")
        send(browser, "/v1/embeddings")  # the example of the page
        assert '"object": "embedding"' in response_text(browser, "/v1/embeddings", "200")
        send(browser, "/readyz")
        assert '"ready"' in response_text(browser, "/readyz", "200")
        browser.emulate(360, 740, "dark", mobile=True)
        browser.shot("api-phone-dark")
        browser.wait_fitting()
        server.server.stop()
        send(browser, "/readyz")
        browser.wait_text(f"{form('/readyz')} pre", "no response: ")


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
