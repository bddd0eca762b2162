"""For which models of a front a machine computes: its folders, and the options of each."""

from __future__ import annotations

import argparse
import logging

import pytest

from bert_serving.server.cli import join
from bert_serving.server.cluster import cli as cluster
from bert_serving.server.config.server_config import ServerConfig
from bert_serving.server.errors import ConfigError
from bert_serving.server.ipc.joining import JOIN_PROTOCOL, FrontTerms, ModelTerms, Terms
from bert_serving.server.supervisor.machine_models import choose_models

LOG = logging.getLogger("test")
TERMS = Terms(JOIN_PROTOCOL, "1", "model", "space", ["fp32"])
FRONT = FrontTerms(
    TERMS,
    {"dtype": "fp32", "max_seq_len": 40},
    1,
    3.0,
    "bge",
    [ModelTerms("rerank", TERMS, {"dtype": "fp32", "task": "rerank"}), ModelTerms("last", TERMS, {"dtype": "int8"})],
)


def parsed(*args: str) -> argparse.Namespace:
    return join.get_parser().parse_args(["127.0.0.1:6000", "-cpu", *args])


def chosen(monkeypatch: pytest.MonkeyPatch, *args: str, front: FrontTerms = FRONT) -> dict[int, ServerConfig]:
    monkeypatch.setattr(join, "MachineSupervisor", lambda host, port, config, keys: config)
    config: ServerConfig = join.make_machine(parsed(*args))  # type: ignore[assignment]
    return dict(choose_models(config, front, LOG))


def test_a_machine_computes_for_the_models_of_its_folders(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    found = chosen(monkeypatch, "-model_dir", "/m/x", "-model", "last=/m/l,num_worker=2", "-model", "rerank=/m/r")
    assert [(number, each.model_dir) for number, each in found.items()] == [(0, "/m/x"), (1, "/m/r"), (2, "/m/l")]
    assert [each.num_worker for each in found.values()] == [1, 1, 2]
    assert [each.max_seq_len for each in found.values()] == [40, 25, 25]
    assert [each.task for each in found.values()] == ["embed", "rerank", "embed"]
    assert [each.dtype for each in found.values()] == ["fp32", "fp32", "int8"]
    assert not caplog.messages
    only = chosen(monkeypatch, "-model", "rerank=/m/r,engine=onnx,threads=3")
    assert [(number, each.model_dir, each.engine, each.threads) for number, each in only.items()] == [
        (1, "/m/r", "onnx", 3)
    ]
    assert caplog.messages == ["this machine has no folder of bge, last, so other workers compute for it"]
    named = chosen(monkeypatch, "-model", "bge=/m/x")
    assert [(number, each.model_dir) for number, each in named.items()] == [(0, "/m/x")]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["-model", "other=/m"],
            "-model other: the front has no model with this name; its models are bge, rerank, last",
        ),
        (
            ["-model_dir", "/m/x", "-model", "bge=/m/y"],
            "-model_dir and -model bge are both a folder of the first model",
        ),
        (
            ["-model", "rerank=/m,max_seq_len=9"],
            "-model rerank: the front tells its machines max_seq_len: omit it here",
        ),
        (["-model", "rerank="], "names no folder"),
        (["-model", "rerank=/m", "-model", "rerank=/n"], "another model has this name"),
    ],
)
def test_wrong_folders_are_explained(args: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=message):
        chosen(monkeypatch, *args)


def test_a_front_of_an_earlier_version_names_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    front = FrontTerms(TERMS, {"dtype": "fp32"}, 1, 3.0)
    assert [*chosen(monkeypatch, "-model_dir", "/m/x", front=front)] == [0]
    with pytest.raises(ConfigError, match="no model with this name; name the folder of its model with -model_dir"):
        chosen(monkeypatch, "-model", "rerank=/m", front=front)


def test_a_cluster_passes_the_folders_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    args = ["127.0.0.1:6000", "-cpu", "-model_dir", "a", "-model", "b=c,num_worker=2", "-model", "d=/e"]
    arguments = cluster.machine_arguments(cluster.get_parser().parse_args(args))
    assert " ".join(arguments) == "127.0.0.1:6000 -model_dir /a -model b=/c,num_worker=2 -model d=/e -cpu"


@pytest.mark.parametrize(
    ("args", "threads"),
    [
        (["-model_dir", "/a"], 8),
        (["-model_dir", "/a", "-model", "b=/c"], 4),
        (["-model_dir", "/a", "-model", "b=/c,num_worker=3"], 2),
        (["-model", "b=/c", "-model", "d=/e"], 4),
        (["-model", "b=/c", "-model", "d=/e", "-num_worker", "3"], 2),
        (["-model", "b=/c,num_worker=2"], 4),
        (["-model", "/a", "-model", "b=/c"], 4),
    ],
)
def test_the_workers_of_all_models_share_the_reserved_cpus(args: list[str], threads: int) -> None:
    arguments = cluster.machine_arguments(cluster.get_parser().parse_args(["h:1", "-num_cpus", "8", *args]))
    assert arguments[-2:] == ["-threads", str(threads)]


@pytest.mark.parametrize(
    ("spec", "words"), [("b=/c,num_worker=auto", "-num_worker auto takes all cores"), ("b=", "names no folder")]
)
def test_a_cluster_refuses_what_its_machines_would(spec: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cluster.main(["h:1", "-num_cpus", "4", "-model_dir", "/a", "-model", spec])
    assert words in " ".join(capsys.readouterr().err.split())


def test_a_machine_refuses_a_model_without_workers(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        join.join(["127.0.0.1:6000", "-cpu", "-model", "b=/c,num_worker=0"])
    assert "-model b: num_worker=0 leaves this machine without a worker" in " ".join(capsys.readouterr().err.split())
