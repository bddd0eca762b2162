"""The page at ``/docs`` in a real browser: its forms send, and show what came back."""

from __future__ import annotations

from pathlib import Path

from bert_serving.server import __version__
from browser import Browser, needs_chromium
from http_calls import HttpServer, serving_http

pytestmark = needs_chromium


def form(path: str) -> str:
    return f'form[data-path="{path}"]'


def send(browser: Browser, path: str, body: str | None = None) -> None:
    """Unfolds a route, writes a body into its form, and presses the button."""
    browser.js("document.querySelector(arguments[0]).closest('details').open = true", form(path))
    if body is not None:
        area = browser.find(f"{form(path)} textarea")
        area.clear()
        area.send_keys(body)
    browser.find(f"{form(path)} button").click()


def answered(browser: Browser, path: str, status: str) -> str:
    """What is shown of the answer, once it is there."""
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
        shown = answered(browser, "/encode", "200")
        value = server.call("/encode", {"texts": ["hello world"]}).json["results"][0][0]
        assert '"id": 7' in shown
        assert f"{value:.4f}"[:7] in shown, "the first number of the vector"
        browser.shot("api")
        browser.wait_fitting()
        send(browser, "/encode", "no JSON")
        assert "not JSON" in answered(browser, "/encode", "400")
        send(browser, "/v1/embeddings")  # its example, as it stands
        assert '"object": "embedding"' in answered(browser, "/v1/embeddings", "200")
        send(browser, "/readyz")
        assert '"ready"' in answered(browser, "/readyz", "200")
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
        assert "Authorization: Bearer" in answered(browser, "/encode", "401")
        browser.find("#token").send_keys("wrong")
        send(browser, "/status/server")
        answered(browser, "/status/server", "401")
        browser.find("#token").clear()
        browser.find("#token").send_keys("sesame")
        send(browser, "/encode")
        assert '"results"' in answered(browser, "/encode", "200")
        send(browser, "/status/server")
        assert '"ready"' in answered(browser, "/status/server", "200")
