"""Behaviour of the dashboard's page in Chromium: requests, other servers, keys, reloads, layout and access."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from browser import Browser, needs_chromium
from dashboard_page import HOSTILE, num_polls, open_dashboard, request_times, saved_history, traffic
from http_calls import HttpServer, serving_http
from servers import TINY, Server, free_ports

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def http_server() -> Iterator[HttpServer]:
    with serving_http("-engine", "zeros", "-num_worker", "2", "-num_tokenizer", "1") as server:
        yield server


def test_page_connects_to_no_other_host(browser: Browser, http_server: HttpServer) -> None:
    open_dashboard(browser, http_server)
    browser.wait_text("#servers .badge", "ready")
    messages = [json.loads(entry["message"])["message"] for entry in browser.driver.get_log("performance")]
    asked = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    assert any("/status/server" in url for url in asked)
    network = {url for url in asked if url.startswith(("http", "ws"))}
    assert {url for url in network if not url.startswith(http_server.url)} == set()


def test_files_have_security_headers_and_etags(http_server: HttpServer) -> None:
    assert http_server.call("/dashboard").headers["location"] == "dashboard/"
    page = http_server.call("/dashboard/")
    assert page.headers["content-type"].startswith("text/html")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    again = http_server.call("/dashboard/", headers={"If-None-Match": page.headers["etag"]})
    assert (again.status, again.body) == (304, b"")
    assert http_server.call("/dashboard/js/main.js").headers["content-type"].startswith("text/javascript")
    for path in ("/dashboard/no.js", "/dashboard/../app.py", "/dashboard/js", "/dashboard/%2e%2e/%2e%2e/app.py"):
        assert http_server.call(path).status == 404, path


def test_a_server_that_stops_and_restarts(browser: Browser) -> None:
    (port,) = free_ports(1)
    server = Server("-engine", "zeros", "-http_port", str(port))
    try:
        open_dashboard(browser, HttpServer(server.wait_ready(), port))
        browser.wait_text("#servers .badge", "ready")
        assert not browser.find("#problem").is_displayed()
        server.stop()
        browser.wait_text("#servers .badge", "unreachable")
        browser.wait_text("#problem", f"127.0.0.1:{port} is unreachable: the connection failed.")
        assert "The data below is from" in browser.text("#problem")
        assert browser.driver.title == f"unreachable: 127.0.0.1:{port}"
        server = Server("-engine", "zeros", "-http_port", str(port))
        browser.wait_text("#servers .badge", "ready", 120)
        assert not browser.find("#problem").is_displayed()
        server.wait_ready()
        browser.wait(lambda: saved_history(browser, f"http://127.0.0.1:{port}/")["texts"][-1] is not None, "a rate")
        texts = saved_history(browser, f"http://127.0.0.1:{port}/")["texts"]
        assert None in texts[2:-1], "a gap while it was down"
        assert all(value >= 0 for value in texts if value is not None)
    finally:
        server.kill()


def test_several_servers(browser: Browser, http_server: HttpServer) -> None:
    with serving_http("-engine", "zeros") as other:
        open_dashboard(browser, http_server)
        browser.wait_text("#servers .badge", "ready")
        browser.find("#add summary").click()
        browser.find("#add-url").send_keys("ftp://x\n")
        browser.wait_text("#add-problem", "is not an HTTP address")
        browser.find("#add-url").clear()
        browser.find("#add-url").send_keys(f"127.0.0.1:{other.http_port}/dashboard/\n")
        browser.wait(lambda: len(browser.all(".badge[data-state=ready]")) == 2, "both servers")
        assert browser.text("[aria-pressed=true] strong") == f"127.0.0.1:{other.http_port}"
        assert "1 of 1 running" in browser.text("#workers-note")

        open_dashboard(browser, http_server)  # the browser storage has the other server
        browser.wait(lambda: len(browser.all(".badge[data-state=ready]")) == 2, "both servers")
        assert "2 of 2 running" in browser.text("#workers-note")
        browser.find(".remove").click()
        assert len(browser.all(".server")) == 1

        open_dashboard(browser, http_server, f"/?server={other.url}&server=ftp://x")
        browser.wait(lambda: len(browser.all(".badge[data-state=ready]")) == 2, "both servers")
        browser.shot("dashboard-several-servers")
    with contextlib.suppress(IndexError):
        browser.all(".pick")[1].click()
    browser.wait_text("#problem", "or its -cors does not allow")
    assert browser.all(".badge[data-state=ready]"), "the other one is not affected"


def test_a_token(browser: Browser, http_server: HttpServer, tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("open sesame\n")
    with serving_http("-engine", "zeros", "-http_token_file", secret) as guarded:
        open_dashboard(browser, guarded, f"/?server={http_server.url}")
        browser.wait_text("#problem", "This server requires a token.")
        browser.find("#token").send_keys("wrong\n")
        browser.wait_text("#problem", "The token is wrong.")
        browser.find("#token").send_keys("open sesame\n")
        browser.wait_text("[aria-pressed=true] .badge", "ready")
        assert not browser.find("#problem").is_displayed()
        assert browser.text("#model-facts").startswith("Model")

        messages = [json.loads(entry["message"])["message"] for entry in browser.driver.get_log("performance")]
        sent = [m["params"]["request"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        with_token = {r["url"] for r in sent if "Authorization" in r["headers"]}
        assert with_token
        assert all(url.startswith(guarded.url) for url in with_token)
        assert "open sesame" not in browser.js("return JSON.stringify(localStorage)")
        browser.driver.refresh()
        browser.wait_text("[aria-pressed=true] .badge", "ready")


def test_server_output_never_becomes_markup(browser: Browser, tmp_path: Path) -> None:
    model = shutil.copytree(TINY, tmp_path / HOSTILE)
    with serving_http("-engine", "zeros", model_dir=model) as server:
        open_dashboard(browser, server)
        browser.wait_text("#model-facts", HOSTILE)
        browser.wait_text("#servers .model", HOSTILE)
        assert browser.driver.title == "bert-serving"
        assert browser.js("return document.querySelectorAll('main img').length") == 0


def test_polling_stops_while_paused_or_hidden(browser: Browser, http_server: HttpServer) -> None:
    open_dashboard(browser, http_server)
    browser.wait(lambda: num_polls(browser) >= 2, "requests")
    browser.find("#pause").click()
    browser.wait_text("#updated", "paused")
    asked = num_polls(browser)
    browser.never(lambda: num_polls(browser) > asked + 1, "a request while paused, except a pending one")
    browser.find("#pause").click()
    browser.wait(lambda: num_polls(browser) > asked + 1, "a request after the pause")

    note = "seen.push([document.hidden, performance.now()])"  # before the handler of the page runs
    browser.js(f"window.seen = []; addEventListener('visibilitychange', () => {note}, true)")
    with browser.tab():
        browser.never(lambda: False, "anything", 6)  # duration (s) in the background
    browser.wait(lambda: len(browser.js("return seen")) == 2, "the page to be visible again")
    (was_hidden, left), (_, back) = browser.js("return seen")
    assert was_hidden
    browser.wait(lambda: any(moment > back for moment in request_times(browser)), "a request when visible again")
    assert not [moment for moment in request_times(browser) if left < moment < back]


def test_history_survives_a_reload(browser: Browser, http_server: HttpServer) -> None:
    open_dashboard(browser, http_server)
    browser.wait_text("#servers .badge", "ready")
    url = f"{http_server.url}/"
    # A pending request is not a point yet.
    browser.wait(lambda: len(saved_history(browser, url)["t"]) >= 3, "some points")
    browser.driver.refresh()
    browser.wait_text("#servers .badge", "ready")
    times = saved_history(browser, url)["t"]
    assert len(times) >= 4
    assert times == sorted(times)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_sufficient_contrast(browser: Browser, http_server: HttpServer, scheme: str) -> None:
    """Every text has a contrast of at least 4.5 : 1, as WCAG 2.2 AA requires (success criterion 1.4.3)."""
    browser.emulate(scheme=scheme)
    with traffic(http_server):
        open_dashboard(browser, http_server)
        browser.wait_text("#workers", "worker-0")
        browser.wait(lambda: num_polls(browser) >= 5, "lines in the charts")
        browser.shot(f"dashboard-{scheme}")
    faint = browser.js(
        """
        const parse = color => color.match(/[\\d.]+/g).map(Number);
        const shine = color => parse(color).slice(0, 3).map(v => v / 255)
          .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
          .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
        const behind = node => {
          for (; node; node = node.parentElement) {
            const color = getComputedStyle(node).backgroundColor;
            if ((parse(color)[3] ?? 1) === 1) return color;
          }
          return 'rgb(255, 255, 255)';
        };
        const faint = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
        while (walker.nextNode()) {
          const node = walker.currentNode.parentElement, text = walker.currentNode.textContent.trim();
          if (!text || !node.checkVisibility() || ['SCRIPT', 'NOSCRIPT'].includes(node.tagName)) continue;
          const [a, b] = [shine(getComputedStyle(node).color), shine(behind(node))].sort((x, y) => y - x);
          if ((a + .05) / (b + .05) < 4.5) faint.push(`${text}: ${((a + .05) / (b + .05)).toFixed(2)}`);
        }
        return faint;
        """
    )
    assert faint == []
    browser.wait_fitting()
    background = browser.js("return getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(243, 245, 248)", "dark": "rgb(14, 19, 26)"}[scheme]


def test_layout_fits_a_phone(browser: Browser, http_server: HttpServer) -> None:
    browser.emulate(360, 740, mobile=True)
    with traffic(http_server):
        open_dashboard(browser, http_server)
        browser.wait_text("#workers", "worker-0")
        browser.wait(lambda: num_polls(browser) >= 5, "lines in the charts")
        browser.shot("dashboard-phone")
    browser.wait_fitting()
    assert browser.js("return document.documentElement.scrollWidth") <= 360
    assert browser.js("return innerWidth") == 360
    assert not browser.find("#workers thead th").is_displayed() or browser.find("#workers thead").size["height"] <= 1
    assert "Texts/s" in browser.js(
        "return getComputedStyle(document.querySelector('#workers td:nth-child(5)'), '::before').content"
    )


def test_controls_have_names_and_keyboard_access(browser: Browser, http_server: HttpServer) -> None:
    open_dashboard(browser, http_server)
    browser.wait_text("#servers .badge", "ready")
    controls = [e for e in browser.all("a, button, select, input, summary") if e.is_displayed()]
    assert all(control.accessible_name for control in controls)
    assert {"Refresh every", "Show the last", "Pause"} <= {control.accessible_name for control in controls}
    reached = set()
    for _ in range(len(controls)):
        browser.driver.switch_to.active_element.send_keys("\ue004")  # Tab
        reached.add(browser.driver.switch_to.active_element.id)
    assert reached == {control.id for control in controls}
