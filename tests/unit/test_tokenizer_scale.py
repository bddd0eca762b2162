"""Number of tokenizer processes: the option, and the processes that ``auto`` starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from bert_serving.server.config.server_config import ServerConfig
from bert_serving.server.errors import ConfigError
from bert_serving.server.log import get_logger
from bert_serving.server.supervisor.tokenizers import BUSY_SECONDS, TokenizerScale, count, required, resolve
from process_harness import tiny_config


@dataclass
class FakeChild:
    """A child process that is not started."""

    role: str
    name: str
    config: ServerConfig
    info: dict[str, Any] = field(default_factory=dict)
    incarnation: int = 0
    is_ready: bool = False


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("3", 3), ("auto", "auto"), ("AUTO", "auto")])
def test_option(text: str, value: int | str) -> None:
    assert tiny_config("-num_tokenizer", text).num_tokenizer == value
    config = tiny_config("-num_tokenizer", text)
    assert ServerConfig.from_json(config.to_json()).num_tokenizer == value


@pytest.mark.parametrize("value", ["-1", "many", 1.5, True])
def test_other_values_are_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="num_tokenizer"):
        ServerConfig.from_dict({"model_dir": "m", "num_tokenizer": value})


@pytest.mark.parametrize(("cores", "number"), [(1, 0), (2, 0), (7, 0), (8, 2), (15, 3), (16, 4), (64, 16)])
def test_auto_uses_a_quarter_of_the_cores(cores: int, number: int) -> None:
    assert count(resolve(tiny_config("-num_tokenizer", "auto"), cores), cores) == number
    assert count(resolve(tiny_config("-num_tokenizer", "3"), cores), cores) == 3
    assert count(resolve(tiny_config(), cores), cores) == 0


def test_auto_starts_one_process_at_a_time_while_the_ventilator_is_busy() -> None:
    config = tiny_config("-num_tokenizer", "auto")
    names = ["ventilator", "tokenizer-0", "tokenizer-1", "worker-0"]
    children: Any = {name: FakeChild(name.partition("-")[0], name, config) for name in names}
    info = children["ventilator"].info
    scale, started = TokenizerScale(get_logger("T")), []

    def start(child: FakeChild, now: float) -> None:
        started.append(child.name)
        child.incarnation += 1

    def pass_time(first: float, share: float) -> None:
        info["busy_share"] = share
        for tenth in range(int(10 * BUSY_SECONDS) + 2):
            scale.step(children, first + tenth / 10, start)

    assert required(children) == []
    pass_time(0, 0.69)
    scale.step(children, 100, start)  # the time in which it was not busy does not count
    info["busy_share"] = 0.9
    scale.step(children, 100.1, start)
    info["busy_share"] = 0.1
    scale.step(children, 102, start)
    info["busy_share"] = 0.9
    scale.step(children, 104, start)
    assert started == []
    pass_time(200, 0.71)
    assert started == ["tokenizer-0"]
    pass_time(300, 0.9)
    assert started == ["tokenizer-0"], "the first is not ready yet"
    assert required(children) == [], "the server is whole while auto starts a process"
    children["tokenizer-0"].is_ready = True
    assert required(children) == ["tokenizer-0"]
    pass_time(400, 0.9)
    assert started == ["tokenizer-0", "tokenizer-1"]
    children["tokenizer-0"].is_ready, children["tokenizer-0"].incarnation = False, 2
    assert required(children) == ["tokenizer-0"], "a process that died is missing"
    pass_time(500, 0.9)
    assert started == ["tokenizer-0", "tokenizer-1"]


def test_a_given_number_is_required_from_the_start() -> None:
    child: Any = FakeChild("tokenizer", "tokenizer-0", tiny_config("-num_tokenizer", "1"))
    assert required({"tokenizer-0": child}) == ["tokenizer-0"]
