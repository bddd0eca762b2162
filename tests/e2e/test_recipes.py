"""The recipes in docs/recipes run as they stand, against a server with the default model.

A page or a section of it is a program, and prints what its ``text`` blocks show. A comment ``<!-- file: NAME -->``
above a block makes it a file, and ``<!-- cell -->`` a cell of a notebook. Recipes of missing packages are skipped.
``make test-frameworks`` has all packages but PyTorch, which ``make test`` has.
"""

from __future__ import annotations

import ast
import contextlib
import http.client
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bert_serving.server.model.default import default_model_dir
from http_calls import HttpServer, serving_http
from servers import free_ports, wait_until

RECIPES = Path(__file__).resolve().parents[2] / "docs" / "recipes"
PAGES = sorted(RECIPES.glob("*.md"))
BLOCK = re.compile(r"^((?:<!-- .*? -->\n)*)```(\w+)[^\n]*\n(.*?)^```", re.M | re.S)
#: Pages whose programs are servers or cells. The tests below run them.
WITH_TESTS_OF_THEIR_OWN = {"fastapi.md", "prefork.md", "jupyter.md"}
#: Imported by each process of a recipe: the pages speak of the default ports.
PORTS = """
import inspect
from bert_serving.client._base import BaseClient

spec = inspect.getfullargspec(BaseClient.__init__)
defaults = dict(zip(spec.args[1:], BaseClient.__init__.__defaults__)) | {"port": %d, "port_out": %d}
BaseClient.__init__.__defaults__ = tuple(defaults.values())
"""

#: The tests send nothing to the makers of the frameworks.
NO_TELEMETRY = {
    "DO_NOT_TRACK": "1",
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "LANGSMITH_TRACING": "false",
}

pytestmark = pytest.mark.skipif(default_model_dir() is None, reason="the default model is not installed")


class Block(NamedTuple):
    above: str
    language: str
    code: str


def sections(page: Path) -> dict[str, list[Block]]:
    """Returns the blocks of each section of a page, by its heading; before the first one, by the name of the page."""
    found = {}
    for part in re.split(r"^## ", page.read_text(encoding="utf-8"), flags=re.M):
        heading = page.stem if part.startswith("# ") else part.partition("\n")[0]
        found[heading] = [Block(*match) for match in BLOCK.findall(part)]
    return found


def files(page: str) -> dict[str, str]:
    """Returns the files of a page, by their names."""
    blocks = [block for section in sections(RECIPES / page).values() for block in section]
    named = [(re.search(r"<!-- file: (.*?) -->", block.above), block.code) for block in blocks]
    return {match[1]: code for match, code in named if match}


def commands(page: str, program: str) -> list[str]:
    """Returns the words of the one command of a page that starts with ``program``."""
    blocks = [block for section in sections(RECIPES / page).values() for block in section if block.language == "bash"]
    (line,) = [line for block in blocks for line in block.code.splitlines() if line.startswith(f"{program} ")]
    return shlex.split(line)


def need(code: str) -> None:
    """Skips a test whose code imports a package that is not installed."""
    for node in ast.walk(ast.parse(code)):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [name.name for name in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            for end in range(1, name.count(".") + 2):
                package = ".".join(name.split(".")[:end])
                if find_spec(package) is None:
                    pytest.skip(f"{package} is not installed; make test or make test-frameworks has it")


def need_command(name: str) -> None:
    if not (Path(sys.executable).parent / name).is_file():
        pytest.skip(f"{name} is not installed; make test-frameworks has it")


@pytest.fixture(scope="module")
def http_server() -> Iterator[HttpServer]:
    with serving_http(model_dir=None) as server:
        yield server


@pytest.fixture
def env(http_server: HttpServer, tmp_path: Path) -> dict[str, str]:
    """Returns the environment of the processes of a recipe."""
    site = tmp_path / "site"
    site.mkdir()
    ports = PORTS % (http_server.server.port, http_server.server.port_out)
    (site / "sitecustomize.py").write_text(ports, encoding="utf-8")
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, **NO_TELEMETRY, "PYTHONPATH": os.pathsep.join(paths), "PATH": path, "OMP_NUM_THREADS": "1"}


def programs() -> Iterator[Any]:
    for page in PAGES:
        for heading, blocks in sections(page).items():
            found = [block for block in blocks if block.language == "python" and "not run" not in block.above]
            if found and page.name not in WITH_TESTS_OF_THEIR_OWN:
                shown = "".join(block.code for block in blocks if block.language == "text")
                yield pytest.param("\n".join(block.code for block in found), shown, id=f"{page.stem}-{heading}")


@pytest.mark.parametrize(("code", "shown"), list(programs()))
def test_programs(code: str, shown: str, http_server: HttpServer, env: dict[str, str], tmp_path: Path) -> None:
    need(code)
    (tmp_path / "recipe.py").write_text(code.replace("8125", str(http_server.http_port)), encoding="utf-8")
    command = [sys.executable, "recipe.py"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, encoding="utf-8", timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == shown
    assert shown, "a recipe shows what it prints"


def test_what_is_not_run_has_a_reason() -> None:
    for page in PAGES:
        for blocks in sections(page).values():
            for block in blocks:
                assert "not run" not in block.above or re.search(r"<!-- not run: \S.{8,} -->", block.above), page.name


def test_each_recipe_is_listed() -> None:
    index = (RECIPES / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES if page.name != "README.md" and f"]({page.name})" not in index] == []


# -- servers -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def running(command: list[str], folder: Path, env: dict[str, str]) -> Iterator[Path]:
    """Runs a command until the end of the block. Yields the path of its output."""
    output = folder / "output.txt"
    with open(output, "w") as stream:
        process = subprocess.Popen(
            command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True
        )
    try:
        yield output
        assert process.poll() is None, output.read_text(errors="replace")
    finally:
        process.send_signal(signal.SIGINT)  # SIGTERM makes uWSGI start its workers again
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)


def post(port: int, texts: list[str]) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request("POST", "/vectors", json.dumps(texts), {"content-type": "application/json"})
        reply = connection.getresponse()
        body = reply.read()
        assert reply.status == 200, body
        return json.loads(body)


def listens(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/")
        return connection.getresponse().status > 0
    return False


@pytest.mark.parametrize(
    ("page", "program"), [("fastapi.md", "uvicorn"), ("prefork.md", "gunicorn"), ("prefork.md", "uwsgi")]
)
def test_servers(page: str, program: str, http_server: HttpServer, env: dict[str, str], tmp_path: Path) -> None:
    code = files(page)["app.py"]
    need(code)
    need_command(program)
    (tmp_path / "app.py").write_text(code, encoding="utf-8")
    (port,) = free_ports(1)
    command = [word.replace("8000", str(port)) for word in commands(page, program)]
    with running(command, tmp_path, env) as output:
        wait_until(lambda: listens(port), what=f"{program}: {output.read_text(errors='replace')}")
        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(lambda number: post(port, [f"text {number}", "another"]), range(32)))
    assert [[len(row) for row in reply] for reply in replies] == [[384, 384]] * 32
    with http_server.zmq_client() as client:
        assert abs(client.encode(["text 7"])[0] - replies[7][0]).max() < 1e-5


def test_celery(http_server: HttpServer, env: dict[str, str], tmp_path: Path) -> None:
    code = files("prefork.md")["tasks.py"]
    need(code)
    for folder in ("broker", "control", "results"):
        (tmp_path / folder).mkdir()
    folders = {"data_folder_in": "broker", "data_folder_out": "broker", "control_folder": "control"}
    settings = {
        "broker_url": "filesystem://",
        "broker_transport_options": folders,
        "result_backend": f"file://{tmp_path}/results",
    }
    (tmp_path / "tasks.py").write_text(f"{code}\napp.conf.update({settings!r})\n", encoding="utf-8")
    call = "from tasks import encode; print([len(row) for row in encode.delay(['one', 'two']).get(timeout=90)])"
    with running(commands("prefork.md", "celery"), tmp_path, env) as output:
        done = subprocess.run(
            [sys.executable, "-c", call], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120
        )
        assert done.stdout == "[384, 384]\n", done.stderr + output.read_text(errors="replace")


# -- a notebook --------------------------------------------------------------------------------------------------------


def run_cell(kernel: Any, code: str) -> tuple[str, str]:
    """Runs a cell. Returns its output, and the name of the exception that ended it."""
    sent = kernel.execute(code)
    return read_cell(kernel, sent)


def read_cell(kernel: Any, sent: str) -> tuple[str, str]:
    printed, error = "", ""
    while True:
        message = kernel.get_iopub_msg(timeout=120)
        if message["parent_header"].get("msg_id") != sent:
            continue
        content = message["content"]
        if message["msg_type"] == "stream" and content["name"] == "stdout":
            printed += content["text"]
        elif message["msg_type"] == "error":
            error = content["ename"]
        elif message["msg_type"] == "status" and content["execution_state"] == "idle":
            return printed, error


def test_jupyter(http_server: HttpServer, env: dict[str, str], tmp_path: Path) -> None:
    manager = pytest.importorskip("jupyter_client.manager")
    pytest.importorskip("ipykernel")
    (blocks,) = sections(RECIPES / "jupyter.md").values()
    first, interrupted, second = [block.code for block in blocks if block.language == "python"]
    shown = [block.code for block in blocks if block.language == "text"]
    process, kernel = manager.start_new_kernel(env=env, cwd=str(tmp_path))
    try:
        assert run_cell(kernel, first) == (shown[0], "")
        with http_server.zmq_client() as client:

            def sequences() -> int:
                count: int = client.server_status["statistic"]["num_total_seq"]
                return count

            before = sequences()
            sent = kernel.execute(interrupted)
            wait_until(lambda: sequences() > before, what="texts of the cell at the server")
            process.interrupt_kernel()
            assert read_cell(kernel, sent) == ("", "KeyboardInterrupt")
        assert run_cell(kernel, second) == (shown[1], "")
    finally:
        kernel.stop_channels()
        process.shutdown_kernel(now=True)
