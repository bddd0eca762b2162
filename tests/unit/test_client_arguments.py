"""Arguments of a wrong type are refused by an error that names the argument, its value and the remedy."""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np
import pytest

from bert_serving.client import AsyncBertClient, BertClient, ConcurrentBertClient, OptionError
from bert_serving.client._arguments import host_name, port_number
from fake_server import FakeServer


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"identity": 7}, r"identity must be str or bytes, but is int \(7\); pass str\(identity\)"),
        ({"identity": 0}, r"identity must be str or bytes, but is int \(0\)"),
        ({"identity": uuid.UUID(int=1)}, r"but is UUID \(UUID\('00000000-.*'\)\); pass str\(identity\)"),
        ({"timeout": "5000"}, r"timeout must be a number of milliseconds \(-1 for no limit\), but is str \('5000'\)"),
        ({"timeout": float("nan")}, r"timeout must be a number of milliseconds .*nan"),
        ({"connect_timeout": "5000"}, "connect_timeout must be a number of milliseconds"),
        ({"port": "http"}, r"port must be a port number, but is str \('http'\)"),
        ({"port_out": None}, r"port_out must be a port number, but is NoneType"),
        ({"ip": 127}, r"ip must be a str, a host name or an address, but is int \(127\)"),
        ({"ip": iter(["a"])}, "but is list_iterator .*; several addresses are a list"),
        ({"ip": "a" * 64}, "ip must be a host name with 1 to 63 characters between two dots, but is 'aaa"),
        ({"ip": "a..b"}, "ip must be a host name with 1 to 63 characters between two dots, but is 'a..b'"),
        ({"ip": ["localhost", f"{'a' * 64}:5555"]}, "is not HOST.* a host name with 1 to 63 characters between two"),
        ({"server_key": b"x" * 40}, "server_key must be a str, .* but is bytes; decode a key in bytes"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    for kind in (BertClient, AsyncBertClient, ConcurrentBertClient):
        with pytest.raises(OptionError, match=message):
            kind(**arguments)


def test_wrong_arguments_of_calls_are_named(fake_server: FakeServer) -> None:
    bc = BertClient(**fake_server.ports)
    with pytest.raises(OptionError, match=r"max_concurrency must be a whole number, but is str \('2'\)"):
        ConcurrentBertClient(max_concurrency="2")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"batch_size must be a whole number, but is str \('2'\)"):
        bc.encode(["a"], batch_size="2")  # type: ignore[call-overload]
    with pytest.raises(OptionError, match=r"max_num_batch must be a whole number, but is str \('2'\)"):
        bc.encode_async([["a"]], max_num_batch="2")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="max_queued must be at least 1, but is 0"):
        bc.listen(max_queued=0)
    for call in (bc.fetch_all, bc.listen):
        bc.encode(["a"], blocking=False)
        with pytest.raises(OptionError, match="timeout must be a number of milliseconds"):
            call(timeout="9")
    bc.timeout = "9"  # type: ignore[assignment]
    with pytest.raises(OptionError, match="timeout must be a number of milliseconds"):
        bc.encode(["a"])
    bc.timeout = float("inf")
    assert bc.encode(["a"], batch_size=np.int64(2)).shape == (1, 4)
    bc.close()


WRONG_HOSTS = ["", " ", "a b", "http://localhost", "tcp://localhost", "localhost:5555", "10.0.0.1:5555",
               "localhost/encode", "::1::2", "[::1]:5555", 5, None, b"localhost"]  # fmt: skip


@pytest.mark.parametrize("ip", WRONG_HOSTS)
def test_an_ip_that_is_no_host_is_named(ip: object) -> None:
    with pytest.raises(OptionError, match="ip must be") as caught:
        BertClient(ip, timeout=100, connect_timeout=100)  # type: ignore[arg-type]
    assert repr(ip) in str(caught.value)


@pytest.mark.parametrize(
    ("ip", "remedy"),
    [
        ("localhost:5555", 'pass ip="localhost", port=5555'),
        ("tcp://10.0.0.1:5555", 'pass ip="10.0.0.1", port=5555'),
        ("gpu1:6000:6001", 'pass ip="gpu1", port=6000, port_out=6001'),
        ("http://localhost/", 'pass ip="localhost"'),
        ("[::1]:5555", 'pass ip="[::1]", port=5555'),
        ("localhost/encode", "pass the numbers of the ports as port and port_out"),
        ("::1::2", "pass the numbers of the ports as port and port_out"),
    ],
)
def test_an_address_with_ports_is_explained(ip: str, remedy: str) -> None:
    with pytest.raises(OptionError) as caught:
        BertClient(ip)
    assert str(caught.value).endswith(f"; {remedy}")


@pytest.mark.parametrize("port", [0, -1, 65536, True, 1.5, "0", "5555x", "", b"5555", None])
@pytest.mark.parametrize("name", ["port", "port_out"])
def test_a_port_that_is_none_is_named(name: str, port: object) -> None:
    with pytest.raises(OptionError, match=f"{name} must be a port number") as caught:
        BertClient(timeout=100, connect_timeout=100, **{name: port})  # type: ignore[arg-type]
    assert repr(port) in str(caught.value)


def test_usual_forms_of_hosts_and_ports_are_accepted() -> None:
    for ip in ("localhost", " 10.0.0.1\n", "::1", "[::1]", "fe80::1%eth0", "::ffff:10.0.0.1", "my-host_2.example.org"):
        assert host_name(ip) == ip.strip()
    for port in (5555, "5555", np.int64(5555)):
        assert port_number("port", port) == 5555


def test_an_identity_that_is_no_utf_8_is_named() -> None:
    with pytest.raises(ValueError, match=r"identity must .*pass bytes"):
        BertClient(identity="\ud800", timeout=100, connect_timeout=100)
