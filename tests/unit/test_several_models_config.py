"""Options of servers with several models: which model has which value, and which values are refused."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from unittest.mock import Mock

import pytest

from bert_serving.server.benchmark.cli import main as benchmark
from bert_serving.server.cli.check import check
from bert_serving.server.config.command_line import get_args_parser
from bert_serving.server.config.models import ABOUT_MODELS, further_models, public_name
from bert_serving.server.config.options import OPTIONS
from bert_serving.server.config.server_config import ServerConfig
from bert_serving.server.errors import ConfigError
from bert_serving.server.ipc.model_numbers import BatchNumbers, model_of
from bert_serving.server.ipc.process_context import ProcessContext
from servers import TINY


def read(*argv: str) -> ServerConfig:
    return ServerConfig.from_args(get_args_parser().parse_args(argv))


def test_a_folder_without_a_name_is_the_model_dir() -> None:
    config = read("-model", "/models/bert")
    assert (config.model_dir, config.model, public_name(config)) == ("/models/bert", (), "bert")
    assert not further_models(config)


def test_options_belong_to_the_model_that_names_them() -> None:
    config = read(
        *(
            "-model_dir",
            "/m/first",
            "-max_seq_len",
            "30",
            "-cased_tokenization",
            "-engine",
            "zeros",
            "-num_worker",
            "2",
        ),
        *("-model", "b=/m/b=1,task=rerank,pooling_layer=-1 -2,num_worker=3", "-model", "c=/m/c,engine=onnx"),
    )
    second, third = further_models(config)
    assert (config.max_seq_len, config.do_lower_case, config.num_worker, public_name(config)) == (30, False, 2, "first")
    assert (second.name, second.model_dir, second.task, second.num_worker) == ("b", "/m/b=1", "rerank", 3)
    assert (second.max_seq_len, second.do_lower_case, second.pooling_layer) == (25, True, (-1, -2))
    assert (second.engine, third.engine, third.num_worker) == ("zeros", "onnx", 1)
    assert {"task", "pooling_layer", "engine"} <= second.given
    assert not {"max_seq_len", "do_lower_case"} & second.given


def test_the_first_named_model_takes_the_place_of_the_model_dir() -> None:
    config = read("-model", "a=/m/a,max_seq_len=40", "-model", "b=/m/b")
    assert (config.model_dir, config.max_seq_len, public_name(config)) == ("/m/a", 40, "a")
    again = ServerConfig.from_json(config.to_json())
    assert (again.model, public_name(again), again.model_dir) == (("b=/m/b",), "a", "/m/a")
    assert [each.name for each in further_models(again)] == ["b"]
    assert ServerConfig.from_dict({"model": ["a=/m/a", "b=/m/b"]}).model == ("b=/m/b",)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["-model", "a="], "names no folder"),
        (["-model_dir", "m", "-model", "a=/x,max_len=9"], "'max_len' is not an option of one model"),
        (["-model_dir", "m", "-model", "a=/x,port=9"], "'port' is not an option of one model"),
        (["-model_dir", "m", "-model", "a=/x,max_seq_len=2"], "max_seq_len=2 is not valid .*at least 4"),
        (["-model_dir", "m", "-model", "a=/x,max_seq_len"], "max_seq_len= is not valid .there is no value"),
        (["-model_dir", "m", "-model", "a=/x,mask_cls_sep=7"], "it is a switch"),
        (["-model_dir", "m", "-model", "a=/x,dtype=fp32,dtype=int8"], "dtype is set twice"),
        (["-model_dir", "m", "-model", "m=/x"], "-model m: another model has this name"),
        (["-model_dir", "m", "-model", "a=/x", "-model", "a=/y"], "-model a: another model has this name"),
        (["-model_dir", "m", "-model", "a" * 129 + "=/x"], "the limit is 128"),
        (["-model_dir", "m", "-model", "/y"], "-model /y has no name, so it is -model_dir, but that is m"),
        (["-model", "a=/x,max_seq_len=40", "-max_seq_len", "30"], "-max_seq_len is set, and -model a sets it too"),
        (["-model_dir", "m", "-model", "a=/x,quantization_ranges=f,task=rerank"], "-model a: -quantization_ranges is"),
        (
            ["-model_dir", "m", "-model", "a=/x,num_worker=0,dtype=auto", "-join_port", "7000"],
            "-model a: -dtype auto depends on",
        ),
        (["-model_dir", "m", "-model", "a=/x,num_worker=0"], "-model a: -num_worker 0 needs -join_port"),
        (["-model_dir", "m", "-num_worker", "0", "-join_port", "7000", "-idle_unload", "9"], "-idle_unload frees"),
        (["-model_dir", "m", *(text for n in range(64) for text in ("-model", f"a{n}=/x"))], "at most 64 models"),
    ],
)
def test_what_cannot_be_served_is_refused(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(*argv)


def test_every_option_about_vectors_belongs_to_a_model() -> None:
    assert {"pooling_strategy", "task", "dimensions", "prompt_name", "tuned_model_dir", "num_worker"} <= set(
        ABOUT_MODELS
    )
    assert not {"port", "engine", "model_dir", "queue_memory"} & set(ABOUT_MODELS)
    assert set(ABOUT_MODELS) <= set(OPTIONS)


@pytest.mark.parametrize("num_models", [1, 2, 3, 64])
def test_numbers_name_their_model_and_rise(num_models: int) -> None:
    numbers = BatchNumbers(12345 << 40, num_models)
    models = [(7 * step) % num_models for step in range(200)]
    taken = [numbers.take(model) for model in models]
    assert [model_of(number, num_models) for number in taken] == models
    assert taken == sorted(set(taken))
    assert taken[-1] < numbers.next
    assert num_models > 1 or taken == list(range(12345 << 40, (12345 << 40) + 200))


@pytest.mark.parametrize("name", ["x" * 129, "a\nb"])
def test_a_folder_whose_name_no_request_can_send_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"the first model has the name of its folder, .*: write -model NAME=FOLDER"):
        read("-model_dir", f"/m/{name}", "-model", "b=/m/b")
    assert read("-model_dir", f"/m/{name}").model == ()
    assert public_name(read("-model", f"a=/m/{name}", "-model", "b=/m/b")) == "a"


def test_the_name_of_a_folder_that_is_no_text_is_one_that_replies_can_hold(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"bert-\xff")
    assert public_name(read("-model_dir", str(folder))) == "bert-?"
    assert public_name(read("-model_dir", "/m/bert", "-tuned_model_dir", str(folder))) == "bert-?"


@pytest.mark.parametrize("number", [2, 3, 7])
def test_the_models_have_equal_parts_of_the_cache_and_together_no_more(number: int) -> None:
    models = [part for each in range(1, number) for part in ("-model", f"m{each}=/m/{each}")]
    for cache_mb in (0, number, 2 * number + 1, 1000):
        config = read("-model_dir", "/m/0", *models, "-cache_mb", str(cache_mb))
        further = [{"config": each.to_json(), "options": {}} for each in further_models(config)]
        context = ProcessContext("sink", config, Mock(), {"models": further}, logging.getLogger(), Mock())
        parts = [each.config.cache_mb for each in context.of_models()]
        assert sum(parts) == cache_mb
        assert max(parts) - min(parts) <= 1
    with pytest.raises(ConfigError, match=f"less than 1 MiB for each of {number} models: set {number} or more, or 0"):
        read("-model_dir", "/m/0", *models, "-cache_mb", str(number - 1))


def test_check_describes_and_refuses_each_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(read("-model_dir", str(TINY), "-engine", "zeros", "-model", f"b={TINY},pooling_layer=-1")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.strip() for line in lines if line.strip().startswith("name:")] == ["name: tiny", "name: b"]
    assert any("layer -2" in line for line in lines)
    assert any("layer -1" in line for line in lines)
    assert check(read("-model_dir", str(TINY), "-engine", "zeros", "-model", f"b={tmp_path / 'missing'}")) == 3
    assert "refused: -model b: " in capsys.readouterr().err


def test_the_benchmark_refuses_several_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark(["-model", f"a={TINY}", "-model", f"b={TINY}"]) == 2
    assert f"-model b={TINY}: this command measures one model" in capsys.readouterr().err
