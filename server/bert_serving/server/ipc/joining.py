"""Defines how machines join a server: the commands, the terms that both sides compare, and the sockets over TCP.

============================  ========================  =====================================================
from -> to (``-join_port``)  commands
============================  ========================  =====================================================
machine -> ventilator         QUERY_TERMS               asks for the terms
                              JOIN offer                asks to join; the offer is compared with the terms
                              MACHINE_HEARTBEAT json    once a second; names the workers that died
                              LEAVE                     it has drained and ends
ventilator -> machine         TERMS terms
                              ACCEPTED, REFUSED reason  the replies to JOIN
                              FRONT_HEARTBEAT json      the reply to MACHINE_HEARTBEAT
                              UNKNOWN_MACHINE           the reply to one that has not joined, or was lost
============================  ========================  =====================================================

Each command of a machine is followed by its name, which stays the same on every connection. Workers send and receive on
the same port what :mod:`.commands` lists for the dispatch socket, and their results on ``-join_port_out``.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import zmq

from ..security.machine_keys import MachineKeys
from .sockets import keep_alive, make_socket

#: Version of the commands, of batches and of results between machines.
JOIN_PROTOCOL = 3
QUERY_TERMS, JOIN, MACHINE_HEARTBEAT, LEAVE = b"QUERY_TERMS", b"JOIN", b"MACHINE_HEARTBEAT", b"LEAVE"
TERMS, ACCEPTED, REFUSED, FRONT_HEARTBEAT = b"TERMS", b"ACCEPTED", b"REFUSED", b"FRONT_HEARTBEAT"
UNKNOWN_MACHINE = b"UNKNOWN_MACHINE"

#: Seconds between two heartbeats of a machine.
HEARTBEAT_INTERVAL = 1.0
#: Largest frame in bytes of a command of a machine or worker, and of a batch.
MAX_COMMAND_BYTES, MAX_BATCH_BYTES = 2**20, 2**30
#: Most characters of the name of a machine.
MAX_NAME = 200
#: ZeroMQ sends this many heartbeats before a silent connection is closed.
_HEARTBEATS = 4


class Terms(msgspec.Struct, frozen=True):
    """What shapes the vectors of a server, or of a machine that offers to join.

    Attributes:
        protocol, version: ``JOIN_PROTOCOL``, and the version of bert-serving-server.
        model: digest of the weights.
        vector_space: space of the vectors of requests without options.
        precision: ``fp32``, ``16 bit`` or ``int8``; several if workers differ.
        bits: processor and versions that the last bits of vectors depend on; empty without ``-deterministic``.
    """

    protocol: int
    version: str
    model: str
    vector_space: str
    precision: list[str]
    bits: str = ""


class ModelTerms(msgspec.Struct, frozen=True):
    """What a server tells about one of its models.

    Attributes:
        options: options that shape vectors, by name; they win over the model folder.
    """

    name: str
    terms: Terms
    options: dict[str, Any]


class FrontTerms(msgspec.Struct, frozen=True):
    """The content of TERMS.

    Attributes:
        terms, options, name: those of the first model; an earlier version tells no name.
        port_out: port for results.
        timeout: seconds of silence after which a machine is lost.
        further: the other models.
    """

    terms: Terms
    options: dict[str, Any]
    port_out: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    timeout: Annotated[float, msgspec.Meta(gt=0)]
    name: str = ""
    further: list[ModelTerms] = []

    @property
    def models(self) -> list[ModelTerms]:
        """All models, the first one first."""
        return [ModelTerms(self.name, self.terms, self.options), *self.further]

    def number_of(self, name: str) -> int | None:
        """Returns the index of a model; an empty name, from an earlier version, stands for the first one."""
        names = [each.name for each in self.models]
        return names.index(name) if name in names else None if name else 0


class Offer(msgspec.Struct, frozen=True):
    """The content of JOIN.

    Attributes:
        terms: those of one offered model, for servers that know no names of models.
        host, devices, engine, dtype: for the status.
        models: the terms of each offered model by name; empty for the first one, from a machine of an earlier version.
    """

    terms: Terms
    host: str
    devices: list[str]
    engine: str
    dtype: str
    models: dict[str, Terms] = {}


class MachineReport(msgspec.Struct, frozen=True):
    """The content of MACHINE_HEARTBEAT.

    Attributes:
        died: worker processes that died, the last ones.
        is_draining: the machine ends; it gets no new batches.
    """

    died: list[str]
    is_draining: bool


class Registration(msgspec.Struct, frozen=True):
    """The content of REGISTER, from a worker of a machine. The status shows all but ``machine`` and ``model``.

    Attributes:
        process: name of its process, with the number of its start.
        max_tokens, max_sequences: limits of a batch.
        model: name of its model; empty from an earlier version.
    """

    machine: str
    process: str
    max_tokens: Annotated[int, msgspec.Meta(ge=1)]
    max_sequences: Annotated[int, msgspec.Meta(ge=1)] | msgspec.UnsetType = msgspec.UNSET
    device: str = ""
    engine: str = ""
    has_token_vectors: bool = False
    overlaps: bool = False
    enqueues: bool = False
    model: str = ""
    gpu_memory_used: int | msgspec.UnsetType = msgspec.UNSET
    gpu_memory_total: int | msgspec.UnsetType = msgspec.UNSET
    gpu_utilization: float | msgspec.UnsetType = msgspec.UNSET


class FrontReport(msgspec.Struct, frozen=True):
    """The content of FRONT_HEARTBEAT: the batches that the machine holds, and whether it gets no new ones."""

    in_flight: int
    is_draining: bool


encode = msgspec.json.encode
decode = msgspec.json.decode


def compare(front: FrontTerms, offer: Offer) -> tuple[list[int], str]:
    """Returns the indexes of the models that a machine offers, and why it cannot join; an empty string if it can."""
    numbers = []
    for name, terms in (offer.models or {front.name: offer.terms}).items():
        number = front.number_of(name)
        if number is None:
            names = ", ".join(each.name for each in front.models)
            return [], f"this machine offers a model {name[:100]!r}, and the front has {names}"
        if reason := refusal(front.models[number].terms, terms):
            return [], f"model {front.models[number].name}: {reason}" if front.further else reason
        numbers.append(number)
    return numbers, ""


def refusal(front: Terms, machine: Terms) -> str:
    """Returns why a machine cannot join, with both values and the remedy; an empty string if it can."""
    if machine.protocol != front.protocol:
        return (
            f"this machine speaks version {machine.protocol} of the protocol between machines, the front version "
            f"{front.protocol}: install the same version of bert-serving-server on both (this machine has "
            f"{machine.version}, the front {front.version})"
        )
    if machine.model != front.model:
        return (
            f"this machine has a model with the digest {machine.model}, the front one with {front.model}: copy the "
            "front's folders of -model_dir and -tuned_model_dir to this machine"
        )
    if machine.precision != front.precision:
        return (
            f"this machine computes in {' and '.join(machine.precision)}, the front in {' and '.join(front.precision)}:"
            " start the front with a -dtype that all its machines compute"
        )
    if machine.vector_space != front.vector_space:
        return (
            f"vectors of this machine are of the space {machine.vector_space}, those of the front of "
            f"{front.vector_space}: copy the folder of the front's -model_dir to this machine, and use the same -engine"
        )
    if machine.bits != front.bits:
        return (
            f"the front has -deterministic, and this machine may compute other last bits: it has {machine.bits}, the "
            f"front {front.bits}: use machines with the front's processor, install the front's versions, or start the "
            "front without -deterministic"
        )
    return ""


def join_socket(
    context: zmq.Context[zmq.Socket[bytes]],
    kind: int,
    timeout: float,
    max_bytes: int,
    keys: MachineKeys | None = None,
    **options: int | bytes,
) -> zmq.Socket[bytes]:
    """Creates a socket between machines.

    Args:
        timeout: seconds after which a silent connection is closed.
        max_bytes: largest frame that it receives.
        keys: keys of the side that connects; None without encryption, and for the side that binds.
    """
    sock = make_socket(context, kind, **options)
    keep_alive(sock)
    milliseconds = max(_HEARTBEATS + 1, int(timeout * 1000))
    sock.setsockopt(zmq.HEARTBEAT_IVL, milliseconds // (_HEARTBEATS + 1))
    sock.setsockopt(zmq.HEARTBEAT_TIMEOUT, milliseconds * _HEARTBEATS // (_HEARTBEATS + 1))
    sock.setsockopt(zmq.MAXMSGSIZE, max_bytes)
    sock.setsockopt(zmq.RECONNECT_IVL, 100)
    sock.setsockopt(zmq.RECONNECT_IVL_MAX, 2000)
    if keys is not None:
        sock.curve_serverkey, sock.curve_publickey, sock.curve_secretkey = keys.encode()
    return sock


def connect(sock: zmq.Socket[bytes], address: str) -> None:
    """Connects to ``tcp://HOST:PORT``; HOST may be an IPv6 address in brackets."""
    if "[" in address:
        sock.setsockopt(zmq.IPV6, 1)
    sock.connect(address)
