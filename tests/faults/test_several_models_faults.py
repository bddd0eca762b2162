"""Several models with keys: what happens to one model, or to a name, leaves the others alone."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from bert_serving.client import EncodingFailedError
from fault_helpers import ThreadGroup, assert_true, connect, faulty, texts, truth
from servers import TINY, free_ports, wait_until

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))

from http_calls import HttpServer

KEYS = '[one]\nkeys = ["a"]\nclass = "query"\n[two]\nkeys = ["b"]\nclass = "bulk"\nwaiting_tokens = 1_000_000\n'


@pytest.mark.minutes
def test_a_crash_loop_of_one_model_and_dying_processes_cost_no_request(tmp_path: Path) -> None:
    (tmp_path / "keys.toml").write_text(KEYS)
    (port,) = free_ports(1)
    options = ("-http_port", port, "-http_keys", tmp_path / "keys.toml", "-cache_mb", "2", "-heartbeat_timeout", "5")
    with faulty(*map(str, options), "-model", f"m={TINY}") as server, ThreadGroup() as threads:
        http, counts = HttpServer(server, port), [0, 0, 0]

        def ask(number: int, model: str, key: str, size: int) -> None:
            while not threads.stopped.is_set():
                sentences = texts(size, 1_000_000 * number + size * counts[number])
                body = {"texts": sentences, "model": model}
                reply = http.call("/encode", body, {"Authorization": f"Bearer {key}"}, timeout=120)
                assert reply.status == 200, reply.body
                np.testing.assert_allclose(reply.json["results"], truth(sentences), atol=1e-4)
                counts[number] += 1

        def wait_for_replies() -> None:
            before = list(counts)
            wait_until(
                lambda: threads.is_busy() and all(now > then for now, then in zip(counts, before, strict=True)), 120
            )

        threads.start(ask, 0, "tiny", "a", 1)
        threads.start(ask, 1, "tiny", "b", 400)
        threads.start(ask, 2, "m", "a", 2)
        wait_for_replies()
        with connect(server, model="m", check_length=False) as client:
            for name, number in (
                ("ventilator", signal.SIGKILL),
                ("sink", signal.SIGKILL),
                ("worker-m-0", signal.SIGSTOP),
                ("worker-m-0", signal.SIGKILL),
            ):
                server.child(name).send_signal(number)
                server.process.send_signal(signal.SIGHUP)  # reads the keys again, too
                with pytest.raises(EncodingFailedError, match="2 workers died"):
                    client.encode(["dog hello"])  # ends each worker of this model that computes it
                wait_for_replies()
            assert_true(client.encode(["hello world"]), ["hello world"])
            threads.stopped.set()
            threads.join(120)
            status = client.server_status
        assert [each["waiting_tokens"] for each in status["shares"].values()] == [0, 0, 0]
        assert status["queue"]["bytes"] == status["results"]["reserved"] == 0
