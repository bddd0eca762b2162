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

# Examples are the same in each run; HYPOTHESIS_SEARCH=1 make test searches for others. Examples have no time limit,
# so that results do not depend on the speed of the machine; tests have one.
settings.register_profile(
    "same",
    derandomize="HYPOTHESIS_SEARCH" not in os.environ,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("same")


#: Seconds after which the process of a test is killed. A test that exceeds the limit of ``pyproject.toml`` fails, but
#: that limit does not apply to the teardown of a failed test.
FORCE_AFTER = 300
#: The same limit after the last test, because Python waits for threads without a limit at exit.
FORCE_END_AFTER = 120
#: Tests of a parallel run that were collected and have not finished.
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
    _stderr = os.dup(sys.__stderr__.fileno())  # pytest captures the original while a test runs
    # A process that a shell starts in the background ignores SIGINT, and its child processes inherit that.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _watch() -> None:
    faulthandler.dump_traceback_later(FORCE_AFTER, exit=True, file=_stderr)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """Ends the process of a hanging test after writing the stacks of all threads."""
    _watch()
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(trylast=True)
def pytest_exception_interact() -> None:
    _watch()  # again: pytest's own plugin has just cancelled it


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
    """Serves the tiny model with ``-show_tokens_to_client``; tests must not change its state."""
    with serving("-show_tokens_to_client", "-engine", "tensorflow") as server:
        server.outlives_module = True
        yield server


@pytest.fixture(scope="module", autouse=True)
def _no_server_is_left() -> Iterator[None]:
    """Kills servers that failed tests of a module left running.

    This fixture is set up first and torn down last, after the fixtures of the module have stopped their servers.
    """
    yield
    for server in STARTED:
        if not server.outlives_module:
            server.kill()
    STARTED[:] = [server for server in STARTED if server.outlives_module]


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Counts unfinished tests as failed, so that `--last-failed` runs them; see the Makefile."""
    is_second_run = session.config.getoption("--second-run")
    cache = getattr(session.config, "cache", None)
    if cache is not None and not is_second_run and not hasattr(session.config, "workerinput"):
        cache.set(FAILED_KEY, sorted(_failed))
    last_failed = session.config.pluginmanager.get_plugin("lfplugin")
    if last_failed is not None:
        last_failed.lastfailed.update(dict.fromkeys(_outstanding, True))
    if not hasattr(session.config, "workerinput"):  # the processes of a parallel run share it
        shutil.rmtree(CACHE, ignore_errors=True)
    # The controller of a parallel run has no limit: its workers may still run tests.
    if not session.config.pluginmanager.has_plugin("dsession"):
        faulthandler.dump_traceback_later(FORCE_END_AFTER, exit=True, file=_stderr)
