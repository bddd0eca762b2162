"""Defines experiments, one table each, and their settings, one row each."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, replace

from ..config.server_config import ServerConfig
from ..model.config import ModelConfig
from .corpus import SentenceSource


@dataclass(frozen=True, slots=True)
class Load:
    """Number of concurrent clients and sentences per request; with ``rate``, single requests per second instead."""

    num_client: int = 1
    client_batch_size: int = 256
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """One row: a server and a load.

    ``value`` distinguishes the row from others. Settings with the same value and different numbers of workers share a
    row.
    """

    value: str
    config: ServerConfig
    load: Load


@dataclass(slots=True)
class Experiment:
    """One table.

    Attributes:
        parameter: the parameter that changes from row to row.
        about: a sentence about the parameter.
        logarithmic: whether a plot has a logarithmic axis of values.
        source: sentences to send; None for those of the plan.
    """

    parameter: str
    about: str
    settings: list[Setting] = field(default_factory=list)
    logarithmic: bool = True
    source: SentenceSource | None = None


def from_args(args: argparse.Namespace, base: ServerConfig, model: ModelConfig) -> list[Experiment]:
    """Returns the experiments of a command line, in the order of 1.10.0."""
    load = Load(args.num_client, args.client_batch_size)
    pooled = [tuple(value) for value in args.test_pooling_layer]
    if args.all_layers:
        pooled = [(-layer,) for layer in range(1, model.num_hidden_layers + 1)]
    experiments = [
        Experiment(
            "max_seq_len",
            "Maximum tokens of a sequence; without -texts, every sequence has this length.",
            [Setting(_shown(n), base.with_(max_seq_len=n), load) for n in args.test_max_seq_len],
        ),
        Experiment(
            "client_batch_size",
            "Sentences per request.",
            [Setting(str(n), base, Load(load.num_client, n)) for n in args.test_client_batch_size],
        ),
        Experiment(
            "num_client",
            "Concurrent clients, each waiting for its response; rates are totals of all clients.",
            [Setting(str(n), base, Load(n, load.client_batch_size)) for n in args.test_num_client],
        ),
        Experiment(
            "max_batch_size",
            "Maximum sequences per batch of a worker.",
            [Setting(str(n), base.with_(max_batch_size=n), load) for n in args.test_max_batch_size],
        ),
        Experiment(
            "pooling_layer",
            "Pooled encoder layer; higher layers are not computed.",
            [Setting(",".join(map(str, n)), base.with_(pooling_layer=n), load) for n in pooled],
            logarithmic=False,
        ),
        Experiment(
            "num_tokenizer",
            "Processes that tokenize; 0 is the ventilator. With -engine zeros they limit the rate.",
            [Setting(str(n), base.with_(num_tokenizer=n), load) for n in args.test_num_tokenizer],
            logarithmic=False,
        ),
        Experiment(
            "open_loop",
            "Single-sentence requests per second with Poisson arrivals; latency counts from the due time.",
            [Setting(f"{rate:.15g}", base, Load(1, 1, rate)) for rate in args.open_loop],
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
