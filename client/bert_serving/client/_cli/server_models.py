"""The servers that encode a corpus: all must have the same model, now and when a run is resumed."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from typing import TYPE_CHECKING

from .._client import BertClient
from .._fronts import Front
from .._scores import ServerTask
from ..protocol import FloatArray
from ..rate_limits import Report
from .command_line import fronts_of
from .corpus import CorpusError
from .manifest import Manifest
from .requests import connect, encode_options, mean_of, probe_server, server_options
from .vector_files import is_same_probe, other_vectors, require_options

if TYPE_CHECKING:
    from .._request_options import OutputOptions


class ServerModel:
    """What the model of a server is, to compare it with those of other servers and of the interrupted run."""

    def __init__(
        self, front: Front, client: BertClient, is_tokenized: bool, options: OutputOptions, report: Report
    ) -> None:
        self.front = front
        self.probe: FloatArray
        self.probe, self.space, self.multi_type = probe_server(client, is_tokenized, options, report)
        self.labels = ServerTask.of(client.server_config).labels
        self.options = server_options(client, self.space)
        self.options |= {"the shape of a vector": list(self.probe.shape), "the dtype": str(self.probe.dtype)}

    def require_same(self, other: ServerModel) -> None:
        """Checks that another server has the same model.

        Raises:
            CorpusError: it has not.
        """
        for name, value in self.options.items():
            if other.options[name] != value:
                raise CorpusError(
                    f"all servers must have the same model and options: {name} of {self.front} is {value}, and of "
                    f"{other.front} {other.options[name]}"
                )
        if not is_same_probe(mean_of(self.probe), mean_of(other.probe)):
            raise CorpusError(
                f"all servers must have the same model and options: {self.front} and {other.front} return different "
                "vectors for the same text"
            )

    def require_resumable(self, before: Manifest) -> None:
        """Checks that this server continues what an interrupted run has begun.

        Raises:
            CorpusError: it has another model.
        """
        require_options({name: before.options.get(name) for name in self.options}, self.options)
        if not is_same_probe(before.probe, mean_of(self.probe)):
            raise other_vectors()


def connect_all(
    args: argparse.Namespace, stack: ExitStack, options: OutputOptions, report: Report
) -> tuple[list[tuple[Front, BertClient]], ServerModel]:
    """Returns a client of each server, which the stack closes, and what the first one is.

    Raises:
        CorpusError: the servers have different models.
    """
    clients: list[tuple[Front, BertClient]] = []
    server: ServerModel | None = None
    for front in fronts_of(args):
        client = stack.enter_context(connect(args, front))
        clients.append((front, client))
        found = ServerModel(front, client, args.is_tokenized, options, report)
        server = server or found
        server.require_same(found)
    assert server is not None
    return clients, server


def reconnect(args: argparse.Namespace, front: Front, server: ServerModel, report: Report) -> BertClient:
    """Returns a new client of a server that was lost.

    Raises:
        CorpusError: it has another model now.
    """
    client = connect(args, front)
    try:
        server.require_same(ServerModel(front, client, args.is_tokenized, encode_options(args), report))
    except BaseException:
        client.close()
        raise
    return client
