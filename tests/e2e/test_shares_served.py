"""Names of HTTP keys and CURVE keys: limits, usage, and new files while the server runs."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from zmq.auth import load_certificate

from bert_serving.client import BertClient, ForbiddenError, RateLimitedError, TooLargeError
from bert_serving.client._cli.encode import main as encode_command
from bert_serving.server.cli.calibrate import main as calibrate
from bert_serving.server.cli.drift import main as measure_drift
from bert_serving.server.cli.keygen import keygen
from bert_serving.server.http.route_table import ENCODING_ROUTES
from http_calls import HttpServer, Reply, serving_http
from servers import Server, wait_until
from version_1 import assert_serves_version_1

FILE = """
[search]
keys = ["key-of-search", "new-key-of-search"]
weight = 4
class = "query"

[archive]
keys = ["key-of-archive"]
class = "bulk"
tokens_per_minute = 100

[few]
keys = ["key-of-few"]
texts_per_minute = 3

[waits]
keys = ["key-of-waits"]
waiting_tokens = 20

[alice]
tokens_per_minute = 40

[carol]
waiting_tokens = 100
"""
SEARCH, ARCHIVE, FEW = "key-of-search", "key-of-archive", "key-of-few"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shares")
    assert keygen([str(folder / "KEYS"), "alice", "bob", "carol"]) == 0
    (folder / "keys.toml").write_text(FILE)
    return folder


@pytest.fixture(scope="module")
def http(folder: Path) -> Iterator[HttpServer]:
    options = ("-engine", "zeros", "-http_keys", folder / "keys.toml", "-auth_keys", folder / "KEYS")
    with serving_http(*options, "-http_jobs", folder / "jobs") as server:
        yield server


def post(http: HttpServer, key: str, texts: list[str], path: str = "/encode") -> Reply:
    return http.call(path, {"texts": texts}, {"Authorization": f"Bearer {key}"})


def usage(http: HttpServer, name: str) -> dict[str, Any]:
    status = http.call("/status/server", headers={"Authorization": f"Bearer {SEARCH}"}).json
    found: dict[str, Any] = status["shares"][name]
    return found


def connect(http: HttpServer, folder: Path, name: str) -> BertClient:
    return BertClient(
        port=http.server.port, port_out=http.server.port_out, timeout=60_000, check_length=False,
        server_key=str(folder / "KEYS" / "server.key"), secret_key=str(folder / "KEYS" / f"{name}.key_secret"),
    )  # fmt: skip


def test_each_key_has_its_name_and_others_are_refused(http: HttpServer) -> None:
    before = usage(http, "search")
    for key in (SEARCH, "new-key-of-search"):
        assert post(http, key, ["the the", "the the"]).status == 200
    after = usage(http, "search")
    assert after["texts"] - before["texts"] == 4
    assert after["requests"] - before["requests"] == 2
    assert after["tokens"] - before["tokens"] == 2 * (4 + 4)
    assert after["waiting_tokens"] == 0
    assert after["weight"] == 4
    for key in ("", "key-of-searc", "key-of-search2", "KEY-OF-SEARCH", "search"):
        assert post(http, key, ["text"]).status == 401
    assert "key-of" not in http.server.log


def test_a_limit_of_tokens_is_exact_and_the_refusal_says_when_to_retry(http: HttpServer) -> None:
    text = " ".join(["the"] * 8)  # 10 tokens
    assert post(http, ARCHIVE, [text] * 11).status == 413  # more than a minute allows
    assert post(http, ARCHIVE, [text] * 7).status == 200
    refused = post(http, ARCHIVE, [text] * 4)
    assert refused.status == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 61
    assert "70 of 100 tokens" in refused.json["description"]
    assert post(http, ARCHIVE, [text] * 3).status == 200  # what is left
    assert usage(http, "archive")["tokens"] == 100
    assert usage(http, "archive")["refused"] >= 2
    assert post(http, SEARCH, [text] * 20).status == 200  # others have their own limits


BODIES: dict[str, Any] = {
    "/encode": {"texts": ["a"]},
    "/similarity": {"inputs": {"source_sentence": "a", "sentences": ["b"]}},
    "/v1/embed": {"model": "m", "texts": ["a"]},
    "/v2/embed": {"model": "m", "texts": ["a"], "input_type": "search_query", "embedding_types": ["float"]},
    "/v1/embeddings": {"input": ["a"], "model": "m"},
}


def test_a_used_up_limit_gives_429_on_every_route(http: HttpServer) -> None:
    for _ in range(3):
        post(http, FEW, ["text"])
    checked = 0
    for path in sorted(ENCODING_ROUTES):
        body = json.dumps(BODIES.get(path, {"inputs": ["a"]}))
        if http.call(path, body.encode(), {"Authorization": f"Bearer {SEARCH}"}).status != 200:
            continue  # the route needs a model of another kind
        checked += 1
        for size in (1, 400):  # in the event loop, and in a thread
            text = json.dumps("text " * size)
            reply = http.call(path, body.replace('"a"', text).encode(), {"Authorization": f"Bearer {FEW}"})
            assert reply.status == 429, (path, reply.body)
            assert 1 <= int(reply.headers["retry-after"]) <= 61
            assert b"few" in reply.body
    assert checked >= 8


def test_a_large_request_is_accepted_or_refused_as_a_whole(http: HttpServer) -> None:
    """3,000 texts are several requests to the service without a limit."""
    before = usage(http, "waits")
    assert post(http, "key-of-waits", ["the the the"] * 3000).status == 413
    assert usage(http, "waits")["tokens"] == before["tokens"]
    assert post(http, "key-of-waits", ["the the the"] * 4).status == 200
    assert usage(http, "waits")["waiting_tokens"] == 0
    assert post(http, SEARCH, ["the the the"] * 3000).status == 200


def test_a_curve_key_has_the_share_of_its_name(http: HttpServer, folder: Path) -> None:
    with connect(http, folder, "alice") as alice, connect(http, folder, "bob") as bob:
        alice.encode(["the the the"] * 7)  # 35 of 40 tokens
        with pytest.raises(RateLimitedError, match="35 of 40 tokens") as caught:
            alice.encode(["the the the"] * 2)
        assert caught.value.retry_after is not None
        assert 1 <= caught.value.retry_after <= 61
        with pytest.raises(TooLargeError, match="40 in a minute"):
            alice.encode(["the the the"] * 9000, batch_size=9000)
        alice.encode(["the the the"])  # what is left
        bob.encode(["the the the"] * 5000)
    assert usage(http, "alice")["tokens"] == 40
    assert usage(http, "bob")["texts"] == 5000


@pytest.mark.parametrize("batch_size", ["1", "30"])
def test_the_command_for_files_waits_while_a_limit_is_used_up(
    http: HttpServer, folder: Path, tmp_path: Path, batch_size: str
) -> None:
    """Up to 64 requests of five tokens are in flight, and the tokens of twenty are allowed, so thirty are divided."""
    (tmp_path / "corpus.txt").write_text("the the the\n" * 40)
    keys = folder / "KEYS"
    args = ["-server_key", str(keys / "server.key"), "-secret_key", str(keys / "carol.key_secret")]
    args += ["-batch_size", batch_size]
    args += ["-port", str(http.server.port), "-port_out", str(http.server.port_out), "-o", str(tmp_path / "out.npy")]
    assert encode_command([str(tmp_path / "corpus.txt"), *args]) == 0
    assert len(np.load(tmp_path / "out.npy")) == 40
    assert usage(http, "carol")["waiting_tokens"] == 0


@pytest.mark.parametrize("command", [calibrate, measure_drift], ids=["calibrate", "drift"])
def test_commands_for_samples_send_no_more_than_a_limit_allows(
    command: Callable[[list[str]], int], http: HttpServer, folder: Path, tmp_path: Path
) -> None:
    """A limit of 100 tokens divides a sample of 300."""
    (tmp_path / "sample.txt").write_text("the the the\n" * 60)
    keys, before = folder / "KEYS", usage(http, "carol")
    args = ["-server_key", str(keys / "server.key"), "-secret_key", str(keys / "carol.key_secret")]
    args += ["-port", str(http.server.port), "-port_out", str(http.server.port_out), "-o", str(tmp_path / "out.json")]
    assert command([str(tmp_path / "sample.txt"), *args]) == 0
    after = usage(http, "carol")
    assert (after["texts"] - before["texts"], after["waiting_tokens"]) == (60, 0)
    assert after["requests"] - before["requests"] == 4


def test_a_client_cannot_take_the_name_of_an_http_key(http: HttpServer, folder: Path) -> None:
    with connect(http, folder, "bob") as bob:
        for share in ("search", ":search", "0" * 32 + ":search"):
            with pytest.raises(ForbiddenError):
                bob._encode_in_detail(["text"], False, 1, [], share=share)


def test_metrics_have_the_usage_of_each_name(http: HttpServer) -> None:
    post(http, SEARCH, ["text"])
    lines = http.call("/metrics", headers={"Authorization": f"Bearer {SEARCH}"}).body.decode().splitlines()
    found = dict(line.rsplit(" ", 1) for line in lines if line.startswith("bert_serving_share_"))
    assert float(found['bert_serving_share_texts_total{name="search"}']) >= 1
    assert float(found['bert_serving_share_tokens_total{name="search"}']) >= 3
    assert found['bert_serving_share_waiting_tokens{name="archive"}'] == "0.0"
    assert 'bert_serving_share_refused_total{name="(none)"}' in found
    assert not any("key-of" in line for line in lines)


def reload(http: HttpServer, folder: Path, text: str, line: str = "names") -> None:
    """Changes the file, and waits for a line of the log."""
    count = http.server.log.count(line)
    (folder / "keys.toml").write_text(text)
    http.server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: http.server.log.count(line) > count, what=line)


def start_batch(client: openai.OpenAI, count: int) -> str:
    """Returns the id of a batch that is in progress, or has ended."""
    lines = [
        json.dumps({"custom_id": str(row), "method": "POST", "url": "/v1/embeddings", "body": {"input": "the the"}})
        for row in range(count)
    ]
    file = client.files.create(file=("in.jsonl", "\n".join(lines).encode()), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h")
    wait_until(lambda: client.batches.retrieve(batch.id).status != "validating", what="the batch")
    return batch.id


def test_the_batches_of_a_removed_name_end_and_those_of_others_go_on(http: HttpServer, folder: Path) -> None:
    """Both batches have more tokens than their names may use in a minute, so they wait."""
    with (
        openai.OpenAI(base_url=f"{http.url}/v1", api_key=ARCHIVE, max_retries=0) as archive,
        openai.OpenAI(base_url=f"{http.url}/v1", api_key=FEW, max_retries=0) as few,
    ):
        removed, kept = start_batch(archive, 60), start_batch(few, 60)
        wait_until(lambda: http.server.log.count("waits, because the service") >= 2, what="both batches")
        reload(http, folder, FILE.replace("[archive]", "[archive-of-another-name]").replace(ARCHIVE, "another-key"))
        wait_until(lambda: f"{removed} is failed" in http.server.log, what="the end of the batch")
        assert usage(http, "archive")["tokens"] <= 100
        reload(http, folder, FILE)
        wait_until(lambda: post(http, ARCHIVE, ["text"]).status != 401, what="the earlier key")
        batch = archive.batches.retrieve(removed)
        assert batch.errors is not None
        assert batch.errors.data is not None
        assert [(error.code, error.message) for error in batch.errors.data] == [
            (
                "name_removed",
                "the name 'archive' was removed from the keys of the server: create the batch with another key",
            )
        ]
        counts = batch.request_counts
        assert counts is not None
        assert (batch.status, counts.total, counts.completed + counts.failed) == ("failed", 60, 60)
        assert batch.error_file_id is not None
        last = json.loads(archive.files.content(batch.error_file_id).text.splitlines()[-1])
        assert last["error"]["code"] == "batch_failed"
        assert few.batches.retrieve(kept).status == "in_progress"
        few.batches.cancel(kept)


def test_sighup_reads_the_file_again(http: HttpServer, folder: Path) -> None:
    reload(http, folder, "[broken", "the earlier keys and limits stay")
    assert post(http, SEARCH, ["text"]).status == 200
    used = usage(http, "archive")["tokens"]
    reload(http, folder, FILE.replace(SEARCH, "rotated").replace("_minute = 100", "_minute = 500"))
    wait_until(lambda: post(http, SEARCH, ["text"]).status == 401, what="the old key")
    assert post(http, "rotated", ["text"]).status == 200
    status = http.call("/status/server", headers={"Authorization": "Bearer rotated"}).json["shares"]["archive"]
    assert status["tokens_per_minute"] == 500
    assert status["tokens"] == used  # what was used still counts
    reload(http, folder, FILE)
    wait_until(lambda: post(http, SEARCH, ["text"]).status == 200, what="the earlier key")


@pytest.mark.parametrize(
    ("options", "env", "part"),
    [
        (("-http_token_file", "keys.toml"), {}, "-http_keys and -http_token_file exclude each other"),
        ((), {"BERT_SERVING_HTTP_TOKEN": "t"}, "BERT_SERVING_HTTP_TOKEN exclude each other"),
    ],
)
def test_contradictions_end_the_start(folder: Path, options: tuple[str, ...], env: dict[str, str], part: str) -> None:
    server = Server("-engine", "zeros", "-http_port", "19998", "-http_keys", folder / "keys.toml", *options, env=env)
    assert server.process.wait(60)
    assert part in server.log
    assert "key-of" not in server.log


def test_the_frames_of_1_10_with_a_key(http: HttpServer, folder: Path) -> None:
    server_key = load_certificate(folder / "KEYS" / "server.key")[0]
    public, secret = load_certificate(folder / "KEYS" / "bob.key_secret")
    assert secret is not None
    assert_serves_version_1(http.server, keys=(server_key, public, secret))
