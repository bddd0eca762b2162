"""Old objects are visited by few collections, and their cycles are freed all the same."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Iterator

import pytest

from bert_serving.server.ipc import full_collections
from bert_serving.server.ipc.full_collections import FullCollections


class Node:
    """An object that refers to itself."""

    def __init__(self) -> None:
        self.self = self


@pytest.fixture
def collections() -> Iterator[FullCollections]:
    made = FullCollections()
    yield made
    made.close()
    assert not gc.get_freeze_count()


def test_collections_skip_old_objects(collections: FullCollections) -> None:
    held = [Node() for _ in range(100_000)]
    gc.collect()
    assert gc.get_freeze_count() >= len(held)
    assert len(gc.get_objects()) < len(held)


def test_cycles_of_old_objects_are_freed_when_it_is_time(
    collections: FullCollections, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node()
    found = weakref.ref(node)
    gc.collect()
    del node
    gc.collect()
    collections.run_if_due()
    assert found() is not None
    after = time.monotonic() + full_collections.INTERVAL
    monkeypatch.setattr(full_collections.time, "monotonic", lambda: after)
    collections.run_if_due()
    assert found() is None
