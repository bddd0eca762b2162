"""The cache of vectors with one vector per token, tokens in the reply, and the figures as metrics."""

from __future__ import annotations

import numpy as np

from bert_serving.client import BertClient
from bert_serving.server.config.memory import available_memory
from bert_serving.server.config.option import MAX_CACHE_MB
from bert_serving.server.http.metrics import families
from servers import Server, serving, wait_until

SHORT, LONG, PAIR = "hello world", "hello " * 12, "hello ||| world"


def test_token_vectors_and_their_tokens_come_from_the_cache() -> None:
    args = ("-pooling_strategy", "NONE", "-max_seq_len", "NONE", "-show_tokens_to_client", "-cache_mb", "4")
    with serving(*args) as server, BertClient(port=server.port, port_out=server.port_out, timeout=60_000) as client:
        first, first_tokens = client.encode([SHORT, LONG, PAIR], show_tokens=True)
        again, tokens = client.encode([SHORT, LONG, PAIR], show_tokens=True)
        np.testing.assert_array_equal(again, first)
        assert tokens == first_tokens
        # The width of a reply is that of its longest text; the cache has the vectors of each text without padding.
        alone, alone_tokens = client.encode([SHORT], show_tokens=True)
        np.testing.assert_array_equal(alone[0], first[0, : alone.shape[1]])
        assert alone_tokens == first_tokens[:1]
        turned, _ = client.encode([PAIR, "another text", SHORT], show_tokens=True)
        width = turned.shape[1]
        np.testing.assert_array_equal(turned[[0, 2]], first[[2, 0], :width])

        def saved() -> int:
            cache = client.server_status["cache"]
            return cache["hits"] + cache["coalesced"]  # type: ignore[no-any-return]

        wait_until(lambda: saved() == 6, what="the last count")
        status = client.server_status
    cache = status["cache"]
    assert (cache["misses"], cache["entries"], cache["max_bytes"]) == (4, 4, 4 * 2**20)
    exported = {sample.name: sample.value for family in families(status, True) for sample in family.samples}
    for name, key in {"hits_total": "hits", "misses_total": "misses", "evictions_total": "evictions"}.items():
        assert exported[f"bert_serving_cache_{name}"] == cache[key]
    assert exported["bert_serving_coalesced_texts_total"] == cache["coalesced"]
    for key in ("entries", "bytes", "max_bytes"):
        assert exported[f"bert_serving_cache_{key}"] == cache[key]


def test_a_cache_larger_than_the_memory_is_refused() -> None:
    server = Server("-cache_mb", MAX_CACHE_MB)  # type: ignore[arg-type]
    assert server.process.wait(60) != 0
    assert f"-cache_mb {MAX_CACHE_MB} is more than the {available_memory() // 2**20} MiB" in server.log
