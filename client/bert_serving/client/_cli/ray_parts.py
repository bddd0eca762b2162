"""The part of ``bert-serving-encode -ray_address`` that runs on the nodes of a cluster: reads inputs, encodes parts."""

from __future__ import annotations

import argparse
import errno
import os
import secrets
import socket
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from .._client import BertClient
from .._fronts import Front
from ..errors import BertServingError, DrainingError, ServerUnreachableError
from ..ray_cluster import exit_with_node
from .corpus import CorpusError
from .manifest import MANIFEST
from .part_files import PartRecord, PartWriter
from .part_pipeline import Job, encode_parts
from .parts import Holder, Part, PartQueue
from .requests import RefusedError
from .server_models import ServerModel, reconnect

_SHARED = "with -ray_address, all nodes see inputs and output under the same paths"


def _report(text: str) -> None:
    """Writes a sentence to stderr, which Ray copies to that of the command."""
    print(text, file=sys.stderr)


class Outcome(NamedTuple):
    """What a call on a node returned.

    Attributes:
        kind: ``done``; ``lost`` if the server is not connected; ``failed`` if the run cannot go on.
        value: what the call returns if it is done.
        message: the reason otherwise.
    """

    kind: str
    value: Any = None
    message: str = ""


class Written(NamedTuple):
    """A complete part under a temporary name."""

    record: PartRecord
    temporary: str


def guarded(function: Callable[..., Any], *arguments: Any) -> Outcome:
    """Calls a function. Its foreseen errors are returned, because Ray adds a traceback to errors that are raised."""
    node = socket.gethostname()
    try:
        return Outcome("done", function(*arguments))
    except (ServerUnreachableError, DrainingError) as error:
        return Outcome("lost", message=str(error))
    except RefusedError as error:
        return Outcome("lost" if isinstance(error.__cause__, DrainingError) else "failed", message=str(error))
    except FileNotFoundError as error:
        return Outcome("failed", message=f"{error}, on the node {node}: {_SHARED}")
    except OSError as error:
        return Outcome("failed", message=f"{error}, on the node {node}")
    except (CorpusError, BertServingError) as error:
        return Outcome("failed", message=str(error))


class Work(NamedTuple):
    """What an actor needs to encode parts.

    Attributes:
        args: the command line.
        job: what is encoded; its paths are absolute.
        model: what the models of all servers must be.
    """

    args: argparse.Namespace
    job: Job
    model: ServerModel


class PartActor:
    """Encodes parts with one server, one at a time.

    Its constructor has no arguments, because Ray may drop them before it starts a lost actor again.
    """

    def __init__(self) -> None:
        exit_with_node()
        self._client: BertClient | None = None
        self._job: Job | None = None

    def connect(self, work: Work, front: Front) -> Outcome:
        """Connects to a server, and compares its model. Must return before `encode` is called."""
        return guarded(self._connect, work, front)

    def encode(self, part: Part) -> Outcome:
        """Writes a part to a temporary file. The value is `Written`."""
        return guarded(self._encode, part)

    def _connect(self, work: Work, front: Front) -> None:
        if not os.path.exists(os.path.join(work.job.folder, MANIFEST)):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), work.job.folder)
        if self._client is not None:
            self._client.close()
        self._client, self._job = None, work.job
        self._client = reconnect(work.args, front, work.model, _report)

    def _encode(self, part: Part) -> Written:
        assert self._client is not None
        assert self._job is not None
        queue, holder, found = PartQueue([part]), Holder(), []

        def written(writer: PartWriter) -> None:
            found.append(Written(writer.complete(), writer.temporary))
            queue.done(holder, part)

        # The name is another one in each call: an actor that Ray takes for dead may still write.
        encode_parts(self._client, self._job, queue, holder, lambda rows: None, written, _report, secrets.token_hex(4))
        return found[0]
