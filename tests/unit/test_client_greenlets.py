"""The client in programs whose threads gevent or eventlet replaced."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from fake_server import FakeServer, run_fake_server

#: Runs in a process of its own, because patched threads cannot be restored. Its arguments: the ports of a server that
#: replies, of one that does not, and of none.
PROGRAM = """
{patch}
import sys, threading, time
from bert_serving.client import BertClient, ConcurrentBertClient, RequestTimeoutError, ServerUnreachableError

ports = list(map(int, sys.argv[1:]))
replying = dict(port=ports[0], port_out=ports[1])
silent = dict(port=ports[2], port_out=ports[3], ignore_all_checks=True)
absent = dict(port=ports[4], port_out=ports[4], connect_timeout=200)

bc = BertClient(**replying)
print("encode", bc.encode(["one", "three"])[:, 0].tolist())

found = [0.0] * 20
def encode(index):
    found[index] = bc.encode(["x" * (index + 1)])[0, 0]
threads = [threading.Thread(target=encode, args=(index,)) for index in range(20)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print("threads", found == list(range(1, 21)))

print("stream", sorted(each.embedding[0, 0] for each in bc.encode_async([["a"], ["bb"], ["ccc"]])) == [1, 2, 3])
bc.encode(["four"], blocking=False)
print("fetch", bc.fetch_all(concat=True)[0, 0] == 4)

steps = []
def step():
    while len(steps) < 3:
        steps.append(time.sleep(0.01))
stepping = threading.Thread(target=step)
stepping.start()
waiting = BertClient(**silent, timeout=1000)
try:
    waiting.encode(["never"])
except RequestTimeoutError:
    print("timeout, others ran:", len(steps) == 3)
stepping.join()
try:
    BertClient(**absent)
except ServerUnreachableError:
    print("unreachable")
with ConcurrentBertClient(max_concurrency=2, **replying) as limited:
    print("limited", limited.encode(["six"])[0, 0] == 3)
bc.close()
waiting.close()
print("closed")
"""
EXPECTED = """\
encode [3.0, 5.0]
threads True
stream True
fetch True
timeout, others ran: True
unreachable
limited True
closed
"""


@pytest.mark.parametrize(
    ("library", "patch"),
    [
        ("gevent", "from gevent import monkey; monkey.patch_all()"),
        ("gevent", "from gevent import monkey; monkey.patch_all(thread=False)"),
        ("gevent", "from gevent import monkey; monkey.patch_all(select=False)"),
        ("gevent", "import bert_serving.client; from gevent import monkey; monkey.patch_all()"),
        ("eventlet", "import eventlet; eventlet.monkey_patch()"),
        ("threading", ""),
    ],
)
def test_every_kind_of_call_works_and_lets_others_run(library: str, patch: str, fake_server: FakeServer) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    with run_fake_server(hold=True) as silent:
        ports = [fake_server.port, fake_server.port_out, silent.port, silent.port_out, 1]
        command = [sys.executable, "-W", "ignore", "-c", PROGRAM.format(patch=patch), *map(str, ports)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == (EXPECTED, 0), done.stderr
