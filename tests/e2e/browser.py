"""A real Chromium for tests, without a screen and without the outside world."""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from servers import wait_until

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
DRIVER = shutil.which("chromedriver")
needs_chromium = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no Chromium here; on Debian: apt-get install chromium chromium-driver"
)
_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars --window-size=1360,1000"
)
SHOTS = Path(__file__).resolve().parents[2] / "build" / "screenshots"


class Browser:
    """One tab, and short words for what tests do with it."""

    def __init__(self, profile: Path) -> None:
        os.environ.update(SE_OFFLINE="true", SE_AVOID_STATS="true")  # the driver is here: nothing to look up or report
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM or ""
        for flag in [*_FLAGS.split(), f"--user-data-dir={profile}"]:
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.service = Service(DRIVER)
        self.driver = webdriver.Chrome(options=options, service=self.service)
        self.driver.set_page_load_timeout(60)
        self.driver.set_script_timeout(60)

    def close(self) -> None:
        """Ends Chromium and its driver; by force if they do not answer any more, so that nothing waits for them."""
        family = []
        with contextlib.suppress(psutil.Error):
            driver = psutil.Process(self.service.process.pid)
            family = [driver, *driver.children(recursive=True)]
        with contextlib.suppress(Exception):
            self.driver.quit()
        for member in family:
            with contextlib.suppress(psutil.Error):
                member.kill()

    @contextlib.contextmanager
    def tab(self) -> Iterator[Browser]:
        """A tab that knows nothing of those before it."""
        first = self.driver.current_window_handle
        self.driver.switch_to.new_window("tab")
        self.driver.get_log("browser")
        self.driver.get_log("performance")
        try:
            yield self
        finally:
            with contextlib.suppress(Exception):  # what a test that failed has left may not answer
                if self.driver.current_url.startswith("http"):
                    self.js("localStorage.clear()")
            with contextlib.suppress(Exception):
                self.driver.close()
            with contextlib.suppress(Exception):
                self.driver.switch_to.window(first)

    def open(self, url: str) -> None:
        self.driver.get(url)

    def js(self, code: str, *args: Any) -> Any:
        return self.driver.execute_script(code, *args)

    def js_module(self, module: str, code: str, *args: Any) -> Any:
        """The value of ``code``, in which ``m`` is a module of the page and ``a`` the arguments."""
        script = (
            "const done = arguments[arguments.length - 1], a = arguments;"
            f"import(new URL({module!r}, document.baseURI)).then(m => {{ {code} }})"
            ".then(done, error => done({failed: String(error)}))"
        )
        return self.driver.execute_async_script(script, *args)

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """What is seen of an element; empty if there is none."""
        found = self.all(selector)
        with contextlib.suppress(StaleElementReferenceException):
            return found[0].text if found else ""
        return ""

    def wait(self, condition: Callable[[], object], what: str, seconds: float = 30.0) -> None:
        wait_until(condition, seconds, what)

    def wait_text(self, selector: str, words: str, seconds: float = 30.0) -> None:
        self.wait(lambda: words in self.text(selector), f"{words!r} in {selector}", seconds)

    def never(self, condition: Callable[[], object], what: str, seconds: float = 5.0) -> None:
        """Fails if ``condition()`` becomes true within ``seconds``."""
        with contextlib.suppress(AssertionError):
            wait_until(condition, seconds)
            pytest.fail(f"{what} was not expected")

    def emulate(self, width: int = 1360, height: int = 1000, scheme: str = "light", mobile: bool = False) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)

    def shot(self, name: str, folder: Path = SHOTS) -> Path:
        """A picture of the whole page, for people to look at: the path of the PNG."""
        # What was just told to the page is drawn two frames later.
        self.driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
        width, height = self.js("return [innerWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        options = {"format": "png", "captureBeyondViewport": True, "clip": clip}
        picture = self.driver.execute_cdp_cmd("Page.captureScreenshot", options)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.png"
        path.write_bytes(base64.b64decode(picture["data"]))
        return path

    def cut_off(self) -> list[str]:
        """The boxes whose content is wider than they are, so that one would have to scroll sideways."""
        return self.js(  # type: ignore[no-any-return]
            "return [...document.querySelectorAll('html, body, .card, .wide, table, pre, details')]"
            ".filter(e => e.checkVisibility() && e.scrollWidth > e.clientWidth + 1)"
            ".map(e => e.id || e.outerHTML.slice(0, 80))"
        )

    def wait_fitting(self) -> None:
        """Waits until no text is cut off: the browser lays a page out again after a change of its size."""
        self.wait(lambda: not self.cut_off(), "boxes as wide as what is in them")

    def complaints(self) -> list[str]:
        """What the browser wrote to its console since the last call, but for failed requests."""
        entries = self.driver.get_log("browser")
        return [entry["message"] for entry in entries if entry["source"] != "network"]


@contextlib.contextmanager
def browsing(profile: Path) -> Iterator[Browser]:
    browser = Browser(profile)
    try:
        yield browser
    finally:
        browser.close()
