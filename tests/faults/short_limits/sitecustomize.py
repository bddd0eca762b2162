"""Shortens the detection of dead peers in each process with this folder in ``PYTHONPATH``. Python imports it first."""

from __future__ import annotations

from bert_serving.client import dead_peer

dead_peer.NO_ACK_SECONDS = 1.0
dead_peer.KEEPALIVE_IDLE = dead_peer.KEEPALIVE_INTERVAL = 1
