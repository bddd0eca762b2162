"""Runs a benchmark: for each setting starts a server, applies the load and adds a row; then writes the report."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from bert_serving.client import BertServingError

from ..errors import ServingError
from ..model.config import ModelConfig
from ..tokenization.factory import make_tokenizer
from ..tokenization.tokenizer import Tokenizer
from . import plot, report
from .corpus import SentenceSource
from .experiments import Experiment, Setting
from .load import LoadResult, Repeats, Request, closed_loop, open_loop, poisson_arrivals
from .machine import machine, versions
from .managed_server import ServerManager
from .report import Row, Table

#: Maximum number of prepared sentences of all clients; beyond it, the requests of a client repeat earlier.
_MAX_SENTENCES = 65_536
#: Minimum number of prepared sentences of a client with small requests.
_MIN_SENTENCES = 256
#: Words of a sentence if -max_seq_len is NONE.
_UNLIMITED_LENGTH = 40


@dataclass(frozen=True, slots=True)
class Plan:
    """Measurement parameters that are common to all settings."""

    source: SentenceSource
    repeats: Repeats
    seed: int
    wait_seconds: float
    out: Path
    command: str
    options: dict[str, Any]


def run(experiments: list[Experiment], model: ModelConfig, plan: Plan) -> bool:
    """Measures all settings and writes the report after each table; returns False if a setting failed.

    The logs of the servers go to ``server.log`` in the folder of the report.
    """
    plan.out.mkdir(parents=True, exist_ok=True)
    about = {
        "command": plan.command,
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "machine": machine(),
        "versions": versions(),
        "engine": "?",
        "dtype": "?",
        "options": plan.options,
    }
    tables: list[Table] = []
    total = sum(len(experiment.settings) for experiment in experiments)
    with _stderr_to(plan.out / "server.log") as terminal, ServerManager(plan.wait_seconds) as manager:
        bar = ProgressBar(total, terminal)
        try:
            for experiment in experiments:
                tables.append(Table(experiment))
                for setting in experiment.settings:
                    bar.show(f"{experiment.parameter} {setting.value}")
                    source = experiment.source or plan.source
                    row = _measure_row(setting, source, model, plan, manager)
                    if row.metrics and about["engine"] == "?":
                        facts = manager.server_config()
                        about |= {"engine": facts["engine_in_use"], "dtype": facts["dtype_in_use"]}
                    tables[-1].rows.append(row)
                    bar.advance()
                report.write(plan.out, tables, about)
                bar.write(tables[-1].markdown())
                if plot.can_plot():
                    plot.plot(tables[-1], plan.out / f"{experiment.parameter.replace(' ', '_')}.png")
        finally:
            bar.close()
            if tables and tables[-1].rows:
                report.write(plan.out, tables, about)
    return not any(row.failure for table in tables for row in table.rows)


def _measure_row(
    setting: Setting, source: SentenceSource, model: ModelConfig, plan: Plan, manager: ServerManager
) -> Row:
    try:
        manager.serve(setting.config)
        return Row(setting, measure(setting, source, model, plan, manager).metrics())
    except (ServingError, BertServingError) as error:
        manager.close(abort=True)
        return Row(setting, failure=str(error))


def measure(
    setting: Setting, source: SentenceSource, model: ModelConfig, plan: Plan, manager: ServerManager
) -> LoadResult:
    """Measures one setting on a server that is ready for it."""
    load = setting.load
    tokenizer = make_tokenizer(setting.config, model)
    length = setting.config.max_seq_len or _UNLIMITED_LENGTH
    if load.rate is not None:
        times = poisson_arrivals(load.rate, plan.repeats.max_seconds, plan.seed)
        number = min(len(times), _MAX_SENTENCES)
        requests = make_requests(source.sentences(number, length), 1, tokenizer)
        return open_loop(manager.connect, requests, times)
    fits = _MAX_SENTENCES // (load.num_client * load.client_batch_size)
    different = max(plan.repeats.number, _MIN_SENTENCES // load.client_batch_size)
    number = max(1, min(different, fits)) * load.client_batch_size
    requests_by_client = [
        make_requests(source.sentences(number, length, client), load.client_batch_size, tokenizer)
        for client in range(load.num_client)
    ]
    return closed_loop(manager.connect, requests_by_client, plan.repeats)


def make_requests(sentences: list[str], size: int, tokenizer: Tokenizer) -> list[Request]:
    """Returns requests of ``size`` sentences each, with the token counts of the server."""
    ends = np.cumsum(tokenizer.encode(sentences).lengths)
    starts = range(0, len(sentences), size)
    tokens = np.diff([0, *(ends[start + size - 1] for start in starts)])
    return [Request(sentences[start : start + size], int(count)) for start, count in zip(starts, tokens, strict=True)]


@contextlib.contextmanager
def _stderr_to(path: Path) -> Iterator[TextIO]:
    """Redirects stderr of this process and its children to a file; yields the previous stderr."""
    sys.stderr.flush()
    before = os.dup(2)
    with open(path, "w", encoding="utf-8") as file, os.fdopen(before, "w", encoding="utf-8") as terminal:
        os.dup2(file.fileno(), 2)
        try:
            yield terminal
        finally:
            sys.stderr.flush()
            terminal.flush()
            os.dup2(before, 2)


class ProgressBar:
    """Progress over the settings: a tqdm bar on a terminal if tqdm is installed, else one line per setting."""

    def __init__(self, total: int, stream: TextIO) -> None:
        self._total, self._stream, self._done = total, stream, 0
        self._bar: Any = None
        if stream.isatty():
            with contextlib.suppress(ImportError):
                from tqdm import tqdm

                self._bar = tqdm(total=total, unit="setting", file=stream)

    def show(self, text: str) -> None:
        """Shows the current setting."""
        if self._bar is not None:
            self._bar.set_description(text)
        else:
            print(f"[{self._done + 1}/{self._total}] {text}", file=self._stream, flush=True)

    def advance(self) -> None:
        self._done += 1
        if self._bar is not None:
            self._bar.update()

    def write(self, text: str) -> None:
        """Prints a table to stdout."""
        if self._bar is not None:
            self._bar.clear()
        print(text, flush=True)
        if self._bar is not None:
            self._bar.refresh()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
