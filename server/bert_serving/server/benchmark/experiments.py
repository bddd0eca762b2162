"""What is measured: experiments, each a table, and their settings, each a row."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, replace

from ..config.server_config import ServerConfig
from ..model.config import ModelConfig
from .corpus import SentenceSource


@dataclass(frozen=True, slots=True)
class Load:
    """Clients at a time, sentences in a request of each; with ``rate``, single requests per second instead."""

    num_client: int = 1
    client_batch_size: int = 256
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """One row: a server and a load. ``value`` is what distinguishes it from the other rows; settings of one value that
    differ in the number of workers share a row."""

    value: str
    config: ServerConfig
    load: Load


@dataclass(slots=True)
class Experiment:
    """One table.

    Attributes:
        parameter: what changes from row to row.
        about: a sentence about it.
        logarithmic: whether the values are spaced so in a plot.
        source: what is sent, if not what is sent everywhere else.
    """

    parameter: str
    about: str
    settings: list[Setting] = field(default_factory=list)
    logarithmic: bool = True
    source: SentenceSource | None = None


def from_args(args: argparse.Namespace, base: ServerConfig, model: ModelConfig) -> list[Experiment]:
    """The experiments that a command line asks for, those of 1.10.0 in its order."""
    load = Load(args.num_client, args.client_batch_size)
    pooled = [tuple(value) for value in args.test_pooling_layer]
    if args.all_layers:
        pooled = [(-layer,) for layer in range(1, model.num_hidden_layers + 1)]
    experiments = [
        Experiment(
            "max_seq_len",
            "Tokens of a sequence at most; without -texts, every sequence is as long.",
            [Setting(_shown(n), base.with_(max_seq_len=n), load) for n in args.test_max_seq_len],
        ),
        Experiment(
            "client_batch_size",
            "Sentences in a request.",
            [Setting(str(n), base, Load(load.num_client, n)) for n in args.test_client_batch_size],
        ),
        Experiment(
            "num_client",
            "Clients at a time, each waiting for its answer; the rates are those of all together.",
            [Setting(str(n), base, Load(n, load.client_batch_size)) for n in args.test_num_client],
        ),
        Experiment(
            "max_batch_size",
            "Sequences at most that a worker computes at once.",
            [Setting(str(n), base.with_(max_batch_size=n), load) for n in args.test_max_batch_size],
        ),
        Experiment(
            "pooling_layer",
            "The encoder layer that is pooled; what lies above it is not computed.",
            [Setting(",".join(map(str, n)), base.with_(pooling_layer=n), load) for n in pooled],
            logarithmic=False,
        ),
        Experiment(
            "open_loop",
            "Requests of one sentence per second that arrive at random (Poisson); latency from when each was due.",
            [Setting(f"{rate:g}", base, Load(1, 1, rate)) for rate in args.open_loop],
        ),
    ]
    for experiment in experiments:
        if workers := args.test_num_worker:
            experiment.settings = [
                replace(setting, config=setting.config.with_(num_worker=number))
                for number in workers
                for setting in experiment.settings
            ]
    return [experiment for experiment in experiments if experiment.settings]


def _shown(max_seq_len: int | None) -> str:
    return "NONE" if max_seq_len is None else str(max_seq_len)
