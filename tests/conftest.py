"""Fixtures for all tests."""

from __future__ import annotations

import faulthandler
import os
import shutil
import signal
import sys
from collections.abc import Generator, Iterator

import pytest
from hypothesis import HealthCheck, settings

from servers import CACHE, STARTED, Server, serving

# The same examples each time: whether the tests pass is no matter of luck. Others: HYPOTHESIS_SEARCH=1 make test
# Nor does it depend on how fast the machine is: examples have no time limit of their own, tests have one.
settings.register_profile(
    "same",
    derandomize="HYPOTHESIS_SEARCH" not in os.environ,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("same")


#: Seconds after which a test is ended by force. What takes longer than the time limit of ``pyproject.toml`` fails; but
#: that limit no longer holds when a test has failed, and tears down what it has set up.
FORCE_AFTER = 300
#: The same for what is left to do after the last test: at its end Python waits for threads without a limit.
FORCE_END_AFTER = 120
#: Tests that the processes of a parallel run have found, and that have not come to an end.
_outstanding: set[str] = set()
#: Tests that failed, and those that passed, in this run.
_failed: set[str] = set()
_passed: set[str] = set()
#: Where a run stores what failed in it, for the second run.
FAILED_KEY = "second_run/failed"


_stderr = 2


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--second-run",
        action="store_true",
        help="names tests that failed in the run before and pass in this one: see the Makefile",
    )


def pytest_configure() -> None:
    global _stderr
    assert sys.__stderr__ is not None
    _stderr = os.dup(sys.__stderr__.fileno())  # while a test runs, the original is captured
    # What a shell starts in the background ignores Ctrl-C, and so would all that tests start.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _watch() -> None:
    faulthandler.dump_traceback_later(FORCE_AFTER, exit=True, file=_stderr)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """A test that hangs cannot hold up the run: the stacks of all threads are written, and its process ends."""
    _watch()
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(trylast=True)
def pytest_exception_interact() -> None:
    _watch()  # again: pytest's own plugin has just put an end to it


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(ids: list[str]) -> None:
    _outstanding.update(ids)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _outstanding.discard(report.nodeid)
    if report.failed:
        _failed.add(report.nodeid)
    elif report.passed and report.when == "call":
        _passed.add(report.nodeid)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.getoption("--second-run"):
        cache = getattr(config, "cache", None)  # absent with -p no:cacheprovider
        failed_before = cache.get(FAILED_KEY, []) if cache is not None else []
        flaky = sorted((_passed - _failed) & set(failed_before))
        if flaky:
            terminalreporter.section("flaky: failed first, passed in the second run; please fix", yellow=True)
            for name in flaky:
                terminalreporter.line(f"FLAKY {name}")


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The tiny model, with tokens shown; tests leave it as they found it."""
    with serving("-show_tokens_to_client", "-engine", "tensorflow") as server:
        server.outlives_module = True
        yield server


@pytest.fixture(scope="module", autouse=True)
def _no_server_is_left() -> Iterator[None]:
    """Servers that the tests of a module started, and that run on because a test failed, end with it.

    It is the first fixture of a module to be set up, so the last one that ends: the module's own have stopped theirs.
    """
    yield
    for server in STARTED:
        if not server.outlives_module:
            server.kill()
    STARTED[:] = [server for server in STARTED if server.outlives_module]


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """What did not run counts as failed, so that `--last-failed` runs it: see the Makefile."""
    is_second_run = session.config.getoption("--second-run")
    cache = getattr(session.config, "cache", None)
    if cache is not None and not is_second_run and not hasattr(session.config, "workerinput"):
        cache.set(FAILED_KEY, sorted(_failed))
    last_failed = session.config.pluginmanager.get_plugin("lfplugin")
    if last_failed is not None:
        last_failed.lastfailed.update(dict.fromkeys(_outstanding, True))
    shutil.rmtree(CACHE, ignore_errors=True)
    # A process that only waits for its workers has no such limit: they may have much to do.
    if not session.config.pluginmanager.has_plugin("dsession"):
        faulthandler.dump_traceback_later(FORCE_END_AFTER, exit=True, file=_stderr)
