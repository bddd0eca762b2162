"""`BertClient` against a scripted server: the interface of 1.10 and the additions to it."""

from __future__ import annotations

import inspect
import logging
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zmq

from bert_serving.client import (
    BertClient,
    ConcurrentBertClient,
    InputTypeError,
    InputValueError,
    OptionError,
    ReplyError,
    RequestTimeoutError,
    VersionMismatchError,
    __version__,
)
from bert_serving.client import _deadline as _wait_policy
from bert_serving.client._progress import bar
from fake_server import CONFIG, DEADLINE, FakeServer, run_fake_server, until, vectors

ORIGINAL = {"server_version": "1.10.0", "max_seq_len": 3, "show_tokens_to_client": True}


pytestmark = pytest.mark.usefixtures("no_unexpected_warnings")


# ---- the interface of 1.10 ------------------------------------------------------------------------------------------


def parameters(function: object) -> dict[str, object]:
    found = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
    return {each.name: each.default for each in found if each.kind is each.POSITIONAL_OR_KEYWORD}


def test_arguments_of_1_10_and_their_order() -> None:
    assert list(parameters(BertClient).items()) == [
        ("ip", "localhost"),
        ("port", 5555),
        ("port_out", 5556),
        ("output_fmt", "ndarray"),
        ("show_server_config", False),
        ("identity", None),
        ("check_version", True),
        ("check_length", True),
        ("check_token_info", True),
        ("ignore_all_checks", False),
        ("timeout", -1),
    ]
    names = list(parameters(BertClient.encode))
    assert names == ["self", "texts", "blocking", "is_tokenized", "show_tokens"]
    assert list(parameters(BertClient.fetch))[:2] == ["self", "delay"]
    assert list(parameters(BertClient.fetch_all))[:3] == ["self", "sort", "concat"]
    assert list(parameters(BertClient.encode_async)) == ["self", "batch_generator", "max_num_batch", "delay"]
    assert parameters(ConcurrentBertClient) == {"max_concurrency": 10}


def test_status_has_the_keys_of_1_10(bc: BertClient, fake_server: FakeServer) -> None:
    bc.encode(["a"])
    status = bc.status
    assert status["identity"] == bc.identity
    assert status["num_request"] == bc.request_id == 2
    assert status["num_pending_request"] == 0
    assert status["pending_request"] == set()
    assert status["output_fmt"] == "ndarray"
    assert (status["port"], status["port_out"], status["server_ip"]) == (
        fake_server.port,
        fake_server.port_out,
        "localhost",
    )
    assert status["client_version"] == __version__
    assert status["timeout"] == 60_000
    assert status["connected"] is True


def test_server_config_and_status(bc: BertClient) -> None:
    assert bc.server_config == CONFIG
    assert bc.server_status == {**CONFIG, "statistic": {}}


def test_handshake_sets_limits_of_the_server() -> None:
    with run_fake_server(config=ORIGINAL) as fake_server, BertClient(**fake_server.ports) as bc:
        assert bc.length_limit == 3
        assert bc.token_info_available is True


def test_show_server_config_prints(fake_server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    BertClient(**fake_server.ports, show_server_config=True).close()
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "server config:"
    assert any(line.split() == ["max_seq_len", "=", "25"] for line in printed)


@pytest.mark.parametrize(
    "arguments",
    [{"ignore_all_checks": True}, {"check_version": False, "check_length": False, "check_token_info": False}],
)
def test_without_checks_no_command_is_sent(fake_server: FakeServer, arguments: dict[str, bool]) -> None:
    with BertClient(**fake_server.ports, **arguments) as bc:
        assert bc.encode(["abc"])[0, 0] == 3
        assert bc.request_id == 1
        assert fake_server.commands == []


def test_without_checks_the_server_may_start_later(fake_server: FakeServer) -> None:
    fake_server.stop()
    with BertClient(**fake_server.ports, ignore_all_checks=True) as bc:
        fake_server.start()
        assert bc.encode(["abc"])[0, 0] == 3


@pytest.mark.parametrize("identity", ["me", b"me"])
def test_identity_may_be_str_or_bytes(fake_server: FakeServer, identity: str | bytes) -> None:
    with BertClient(**fake_server.ports, identity=identity) as bc:
        assert bc.identity == b"me"
        bc.encode(["a"])
        assert fake_server.received[-1].identity == b"me"


def test_default_identity_is_unique(fake_server: FakeServer) -> None:
    with BertClient(**fake_server.ports) as one, BertClient(**fake_server.ports) as two:
        assert one.identity != two.identity
        assert len(one.identity) == 36


@pytest.mark.parametrize("identity", ["a#b", "a@b", "ä", b"\xff\0", "x" * 255])
def test_identities_that_crash_an_original_server(fake_server: FakeServer, identity: str | bytes) -> None:
    with BertClient(**fake_server.ports, identity=identity) as bc:
        assert bc.encode(["abc"])[0, 0] == 3


def test_identity_length_limit() -> None:
    with pytest.raises(InputValueError, match="at most 255 bytes, but has 256"):
        BertClient(identity="x" * 256)


def test_output_fmt_list(fake_server: FakeServer) -> None:
    with BertClient(**fake_server.ports, output_fmt="list") as bc:
        assert bc.encode(["abc"]) == [[3.0, 1.0, 2.0, 3.0]]
        bc.encode(["a"], blocking=False)
        bc.encode(["bb"], blocking=False)
        assert [row[0] for row in bc.fetch_all(concat=True)] == [1.0, 2.0]


def test_unknown_output_fmt() -> None:
    with pytest.raises(AttributeError, match='"output_fmt" must be "ndarray", "list" or "torch"'):
        BertClient(output_fmt="tensor")


@pytest.mark.parametrize(
    ("config", "fits"),
    [
        ({"server_version": "1.10.0"}, True),
        ({"server_version": "1.10.0", "protocol_version": 2}, True),
        ({"server_version": "3.0.0", "protocol_version": 3}, True),
        ({"server_version": "1.7.5"}, False),
        ({"server_version": "1.7.5", "protocol_version": 0}, False),
        ({}, False),
    ],
)
def test_check_version(config: dict[str, object], fits: bool) -> None:
    with run_fake_server(config=config) as fake_server:
        if fits:
            BertClient(**fake_server.ports).close()
            return
        with pytest.raises(VersionMismatchError, match=r"version mismatch!.*check_version=False"):
            BertClient(**fake_server.ports)
        BertClient(**fake_server.ports, check_version=False).close()


def test_a_client_cannot_be_pickled(bc: BertClient) -> None:
    with pytest.raises(TypeError, match="create one in the other process"):
        pickle.dumps(bc)


# ---- encode ---------------------------------------------------------------------------------------------------------


def test_encode_gives_a_writable_array(bc: BertClient) -> None:
    array = bc.encode(["a", "bb"])
    np.testing.assert_array_equal(array, vectors(["a", "bb"]))
    assert array.dtype == np.float32
    array += 1


def test_encode_takes_any_ordered_iterable(bc: BertClient) -> None:
    for texts in (["a", "bb"], ("a", "bb"), np.array(["a", "bb"]), (text for text in ("a", "bb"))):
        assert bc.encode(texts)[:, 0].tolist() == [1, 2]


def test_invalid_texts_are_not_sent(bc: BertClient, fake_server: FakeServer) -> None:
    for texts, tokenized in (("a", False), ([], False), (["a", " "], False), (["a"], True), ([[]], True)):
        for blocking in (True, False):
            with pytest.raises((InputTypeError, InputValueError)):
                bc.encode(texts, is_tokenized=tokenized, blocking=blocking)
    bc.encode(["a"])
    assert len(fake_server.received) == 1


def test_texts_arrive_unchanged(bc: BertClient, fake_server: FakeServer) -> None:
    texts = ["你好", "e\u0301\x00", "😀 \ud800", '"\\/', "a ||| b"]
    bc.encode(texts)
    assert fake_server.received[-1].texts == texts
    assert fake_server.received[-1].num_texts == 5
    tokens = [["你", "好"], ["a"]]
    bc.encode(tokens, is_tokenized=True)
    assert fake_server.received[-1].texts == tokens


def test_long_input_is_split_into_requests(bc: BertClient, fake_server: FakeServer) -> None:
    texts = ["x" * (number % 9 + 1) for number in range(100)]
    np.testing.assert_array_equal(bc.encode(texts, batch_size=7), vectors(texts))
    assert [request.num_texts for request in fake_server.received] == [7] * 14 + [2]
    bc.encode(texts, batch_size=None)
    assert fake_server.received[-1].num_texts == 100


def test_not_blocking_is_always_one_request(bc: BertClient, fake_server: FakeServer) -> None:
    assert bc.encode(["x"] * 5000, blocking=False) is None
    assert [array.shape for array in bc.fetch_all()] == [(5000, 4)]


def test_progress_bar(bc: BertClient, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bert_serving.client._progress._tqdm", lambda *_: None)
    bc.encode(["x"] * 10, batch_size=5, show_progress_bar=True)
    shown = capsys.readouterr().err
    assert "  0% 0/10 texts" in shown
    assert " 50% 5/10 texts" in shown
    assert shown.endswith("\n")
    assert "100% 10/10 texts" in shown.splitlines()[-1]


def test_progress_bar_shows_rate_and_time_left() -> None:
    assert bar(512, 1024, 2.0) == f"encode [{'=' * 15:<30}]  50% 512/1024 texts, 256/s, 0:00:02 left"
    assert bar(912, 1024, 2.0, before=900).endswith("912/1024 texts, 6/s, 0:00:19 left")
    assert bar(1024, 1024, 2.0).endswith("1024/1024 texts, 512/s")
    assert bar(512, None, 2.0, label="read", unit="bytes") == "read 512 bytes, 256/s"
    assert bar(0, 1024, 2.0).endswith("  0% 0/1024 texts")


def test_show_tokens() -> None:
    with (
        ThreadPoolExecutor() as pool,
        run_fake_server(config=ORIGINAL, hold=True) as fake_server,
        BertClient(**fake_server.ports) as bc,
    ):
        result = pool.submit(bc.encode, ["a", "b"], show_tokens=True, batch_size=1)
        for token in ("a", "b"):
            fake_server.reply(fake_server.next(), tokens=[["[CLS]", token, "[SEP]"]])
        array, tokens = result.result(DEADLINE)
        assert array.shape == (2, 4)
        assert tokens == [["[CLS]", "a", "[SEP]"], ["[CLS]", "b", "[SEP]"]]


def test_show_tokens_warns_if_the_server_shows_none(bc: BertClient) -> None:
    with pytest.warns(UserWarning, match="-show_tokens_to_client") as caught:
        assert bc.encode(["a"], show_tokens=True).shape == (1, 4)
    assert caught[0].filename == __file__


def test_truncation_warning_once_per_call() -> None:
    with ThreadPoolExecutor() as pool, run_fake_server(hold=True) as fake_server, BertClient(**fake_server.ports) as bc:

        def reply_to(number: int) -> None:
            for _ in range(number):
                fake_server.reply(fake_server.next(), num_truncated=1, truncated=[0])

        done = pool.submit(reply_to, 2)
        with pytest.warns(UserWarning, match="2 of 4 texts are longer than the server's max_seq_len=25") as caught:
            bc.encode(["x"] * 4, batch_size=2)
        assert [warning.filename for warning in caught] == [__file__]
        done.result(DEADLINE)
        for _ in range(3):
            bc.encode(["x"], blocking=False)
        done = pool.submit(reply_to, 3)
        with pytest.warns(UserWarning, match="1 of 1 texts") as caught:
            assert len(list(bc.fetch())) == 3
        assert [warning.filename for warning in caught] == [__file__]
        done.result(DEADLINE)


def test_a_client_shows_the_vector_space_and_the_truncated_texts() -> None:
    config = {**CONFIG, "vector_space": "8d95d1001f19a6a5"}
    with (
        ThreadPoolExecutor() as pool,
        run_fake_server(config=config, hold=True) as fake_server,
        BertClient(**fake_server.ports, check_length=False) as bc,
    ):
        where = f"<BertClient of localhost:{bc.port}/{bc.port_out}, connected, vector space 8d95d1001f19a6a5"

        def reply_to(number: int) -> None:
            for index in range(number):
                cut = {"num_truncated": 1, "truncated": [0]} if index % 2 else {}
                fake_server.reply(fake_server.next(), **cut)

        assert repr(bc) == f"{where}>"
        done = pool.submit(reply_to, 2)
        bc.encode(["x"] * 4, batch_size=2)
        done.result(DEADLINE)
        assert repr(bc) == f"{where}, 1 of 4 texts truncated>"
        for _ in range(2):
            bc.encode(["x", "x"], blocking=False)
        done = pool.submit(reply_to, 2)
        assert len(bc.fetch_all()) == 2
        done.result(DEADLINE)
        assert repr(bc) == f"{where}, 2 of 8 texts truncated>"
        found = {name: bc.status[name] for name in ("vector_space", "num_text", "num_truncated")}
        assert found == {"vector_space": "8d95d1001f19a6a5", "num_text": 8, "num_truncated": 2}


@pytest.mark.parametrize("config", [ORIGINAL, CONFIG])
def test_no_truncation_warning_without_check_length(config: dict[str, object]) -> None:
    with (
        run_fake_server(config=config, hold=True) as fake_server,
        BertClient(**fake_server.ports, check_length=False) as bc,
    ):
        bc.encode(["one two three four five"], blocking=False)
        fake_server.reply(fake_server.next(), num_truncated=1, truncated=[0])
        assert len(bc.fetch_all()) == 1


def test_truncation_warning_before_sending_to_an_original_server() -> None:
    with run_fake_server(config=ORIGINAL) as fake_server, BertClient(**fake_server.ports) as bc:
        with pytest.warns(UserWarning, match="1 of 2 texts are longer.*max_seq_len=3") as caught:
            bc.encode(["one two three four", "one"])
        assert caught[0].filename == __file__
        with pytest.warns(UserWarning, match="1 of 1"):
            bc.encode([list("abcd")], is_tokenized=True)
        assert repr(bc).endswith(", connected, 2 of 3 texts truncated>")


def test_no_warning_if_the_server_has_no_limit() -> None:
    with (
        run_fake_server(config={**ORIGINAL, "max_seq_len": None}) as fake_server,
        BertClient(**fake_server.ports) as bc,
    ):
        assert bc.length_limit is None
        bc.encode(["word " * 1000])


def test_reply_with_vectors_to_a_command_is_an_error(bc: BertClient, fake_server: FakeServer) -> None:
    fake_server.config = None
    with ThreadPoolExecutor() as pool:
        result = pool.submit(lambda: bc.server_config)
        until(lambda: bc.pending_request)
        wire_id = bc._connection._table.wire_id(next(iter(bc.pending_request)))
        fake_server.send([bc.identity, b"{}", b"", b"%d" % wire_id])
        with pytest.raises(ReplyError):
            result.result(DEADLINE)


def test_warning_after_long_wait(
    fake_server: FakeServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_wait_policy, "WARN_AFTER", 0.02)
    monkeypatch.setattr(_wait_policy, "POLL_INTERVAL", 0.02)
    fake_server.hold = True
    with ThreadPoolExecutor() as pool, BertClient(**fake_server.ports) as bc, caplog.at_level(logging.WARNING):
        result = pool.submit(bc.encode, ["a"])
        request = fake_server.next()
        until(lambda: "still waiting" in caplog.text)
        fake_server.reply(request)
        result.result(DEADLINE)
        assert caplog.text.count("still waiting") == 1


def test_curve_encryption() -> None:
    server_public, server_secret = zmq.curve_keypair()
    with zmq.Context() as context, context.socket(zmq.PULL) as pull, context.socket(zmq.XPUB) as xpub:
        for sock in (pull, xpub):
            sock.curve_server, sock.curve_secretkey, sock.linger = True, server_secret, 0
            sock.rcvtimeo = 30_000
        ports = {
            "port": pull.bind_to_random_port("tcp://127.0.0.1"),
            "port_out": xpub.bind_to_random_port("tcp://127.0.0.1"),
        }
        with BertClient(**ports, server_key=server_public.decode(), ignore_all_checks=True, timeout=60_000) as bc:
            bc.encode(["secret"], blocking=False)
            assert xpub.recv()[1:] == bc.identity
            frames = pull.recv_multipart()
            xpub.send_multipart([bc.identity, b'{"dtype": "float32", "shape": [1, 1]}', b"\0" * 4, frames[2]])
            assert bc.fetch_all()[0].shape == (1, 1)
        wrong = zmq.curve_keypair()[0].decode()
        with pytest.raises(ConnectionError, match="a wrong CURVE key"):
            BertClient(**ports, server_key=wrong, connect_timeout=3000)


@pytest.mark.parametrize(
    "keys", [{"secret_key": "x"}, {"server_key": "short"}, {"server_key": "x" * 40, "secret_key": "x"}]
)
def test_invalid_curve_keys(keys: dict[str, str]) -> None:
    with pytest.raises(OptionError):
        BertClient(**keys)


# ---- many threads ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [BertClient, ConcurrentBertClient])
def test_one_client_for_many_threads(fake_server: FakeServer, kind: type[BertClient]) -> None:
    with ThreadPoolExecutor(20) as pool, kind(**fake_server.ports) as bc:

        def work(length: int) -> bool:
            return all(bc.encode(["x" * length])[0, 0] == length for _ in range(20))

        assert all(pool.map(work, range(1, 21)))


def test_concurrent_client_limits_concurrent_calls() -> None:
    with (
        ThreadPoolExecutor(6) as pool,
        run_fake_server(hold=True) as fake_server,
        ConcurrentBertClient(max_concurrency=2, **fake_server.ports) as bc,
    ):
        results = [pool.submit(bc.encode, ["x"]) for _ in range(6)]
        for _ in range(6):
            until(lambda: not fake_server.held.empty())
            assert len(bc.pending_request) <= 2
            fake_server.reply(fake_server.next())
        assert [result.result(DEADLINE).shape for result in results] == [(1, 4)] * 6
        assert fake_server.most_waiting <= 2


def test_concurrent_client_times_out_without_a_slot() -> None:
    with (
        ThreadPoolExecutor() as pool,
        run_fake_server(hold=True) as fake_server,
        ConcurrentBertClient(max_concurrency=1, **fake_server.ports) as bc,
    ):
        first = pool.submit(bc.encode, ["x"])
        request = fake_server.next()
        bc.timeout = 20
        with pytest.raises(RequestTimeoutError, match="max_concurrency=1"):
            bc.encode(["y"])
        fake_server.reply(request)
        first.result(DEADLINE)


def test_concurrent_client_fetches_too(fake_server: FakeServer) -> None:
    with ConcurrentBertClient(max_concurrency=1, **fake_server.ports) as bc:
        assert bc.identity
        bc.encode(["a"], blocking=False)
        assert len(bc.fetch_all()) == 1
        assert len(list(bc.encode_async([["a"]] * 3))) == 3
        assert bc.server_status["statistic"] == {}


def test_max_concurrency_must_be_positive() -> None:
    with pytest.raises(OptionError, match="max_concurrency"):
        ConcurrentBertClient(max_concurrency=0)
