"""Pooling of single requests: what may be asked, which columns it has, and what workers and the sink do with it."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from bert_serving.client._request_options import request_options
from bert_serving.client.errors import OptionError
from bert_serving.server.config.request_pooling import RequestPooling
from bert_serving.server.config.server_config import ServerConfig
from bert_serving.server.engines.base import Device, EngineSpec
from bert_serving.server.engines.batch import Batch
from bert_serving.server.engines.layout import select_sequences
from bert_serving.server.errors import InvalidRequest
from bert_serving.server.ipc.cached_rows import CachedRows, first_entry
from bert_serving.server.ipc.messages import BatchMessage, Result
from bert_serving.server.model.config import ModelConfig
from bert_serving.server.model.pipeline import SentencePipeline
from bert_serving.server.model.pooling import PoolingStrategy, dimensions
from bert_serving.server.model.token_heads import MaskedLmHead
from bert_serving.server.model.vector_options import VectorOptions
from bert_serving.server.model.vector_space import digest_of
from bert_serving.server.sink.finished_vectors import finish_vectors
from bert_serving.server.sink.result_receiver import ResultCheck
from bert_serving.server.sink.vector_cache import VectorCache
from bert_serving.server.supervisor.placement import WorkerPlacement
from bert_serving.server.supervisor.preflight import read_model
from bert_serving.server.supervisor.vector_space import vector_content
from bert_serving.server.ventilator.request_options import OptionsResolver, RequestOptions
from bert_serving.server.ventilator.text_parts import require_token_vectors
from bert_serving.server.worker.batch_encoder import BatchEncoder
from bert_serving.server.worker.sentence_head import SentenceHead
from bert_serving.server.worker.token_pooling import pool_as
from model_folders import hf_tensors, write_hf
from poolings import REQUEST_POOLINGS
from process_harness import tiny_config
from servers import CACHE

SIZE = 4
STRATEGIES = tuple(PoolingStrategy[name] for name in REQUEST_POOLINGS)


def served(*args: str, folder: Path | None = None) -> tuple[ServerConfig, ModelConfig]:
    """Returns the configuration of a server and its model, with all that shapes its vectors."""
    config = tiny_config(*args)
    config, model = read_model(config if folder is None else config.with_(model_dir=str(folder)), logging.getLogger())
    content = vector_content(config, model, [WorkerPlacement(Device("cpu", 0, 1), "onnx", "fp32")])
    return config.with_(vector_content=content, vector_digest=digest_of(content)), model


def by_definition(tokens: np.ndarray, mask: np.ndarray, strategy: PoolingStrategy) -> np.ndarray:
    """Returns the vector of one sequence, float64."""
    tokens = tokens.astype(np.float64)
    seen = tokens[mask > 0]
    zeros = np.zeros(tokens.shape[1])
    mean = seen.mean(0) if len(seen) else zeros
    most = seen.max(0) if len(seen) else zeros
    places = np.flatnonzero(mask > 0) + 1
    return {
        PoolingStrategy.REDUCE_MEAN: mean,
        PoolingStrategy.REDUCE_MAX: most,
        PoolingStrategy.REDUCE_MEAN_MAX: np.concatenate([mean, most]),
        PoolingStrategy.CLS_TOKEN: tokens[0],
        PoolingStrategy.SEP_TOKEN: tokens[-1],
        PoolingStrategy.WEIGHTED_MEAN: (places @ seen) / places.sum() if len(seen) else zeros,
        PoolingStrategy.MEAN_SQRT_LEN: seen.sum(0) / np.sqrt(max(1, len(seen))),
    }[strategy]


class TokenEngine:
    """Has the same vector for a token id in every sequence; its own pooling is the first token."""

    def __init__(self, width: int) -> None:
        self.table = np.random.default_rng(0).normal(size=(50, width)).astype(np.float32)

    def encode(self, batch: Batch) -> np.ndarray:
        return self.table[batch.input_ids[np.cumsum(batch.lengths) - batch.lengths]]

    def encode_tokens(self, batch: Batch) -> np.ndarray:
        return self.table[batch.input_ids]

    def close(self) -> None:
        """There is nothing to close."""


LENGTHS = st.lists(st.integers(1, 7), min_size=1, max_size=9)


@given(LENGTHS, st.data())
def test_each_text_of_a_batch_has_the_pooling_of_its_request(lengths: list[int], data: st.DataObject) -> None:
    """Also equal texts with different poolings; the bits do not depend on the other texts."""
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    tokens = sum(lengths)
    ids = random.integers(0, data.draw(st.sampled_from([2, 50])), tokens).astype(np.int32)
    mask = (random.random(tokens) < 0.7).astype(np.int32)
    batch = Batch(ids, np.zeros(tokens, np.int32), mask, np.array(lengths, np.int32))
    asked = data.draw(st.lists(st.none() | st.sampled_from(STRATEGIES), min_size=len(lengths), max_size=len(lengths)))
    codes = np.array([VectorOptions(pooling=each).code for each in asked], np.int32)
    engine, spec = TokenEngine(SIZE), EngineSpec(None, "")  # type: ignore[arg-type]
    encoder = BatchEncoder(engine, SentenceHead(SentencePipeline("", ()), SIZE, {}), spec)

    def encode(rows: list[int]) -> np.ndarray:
        chosen, _ = select_sequences(batch, np.array(rows))
        found, _, _ = encoder.encode(BatchMessage(1, chosen, b"", vector_codes=codes[rows].tobytes()))
        return found

    whole = encode(list(range(len(lengths))))
    assert whole.shape == (len(lengths), SIZE * (2 if PoolingStrategy.REDUCE_MEAN_MAX in asked else 1))
    starts = np.cumsum(lengths) - lengths
    for row, (start, length, strategy) in enumerate(zip(starts.tolist(), lengths, asked, strict=True)):
        own = slice(start, start + length)
        wanted = by_definition(engine.table[ids[own]], mask[own], strategy or PoolingStrategy.CLS_TOKEN)
        np.testing.assert_allclose(whole[row, : len(wanted)], wanted, atol=1e-5)
        assert not whole[row, len(wanted) :].any()
        assert encode([row])[0].tobytes() == whole[row, : len(wanted)].tobytes()


@pytest.mark.parametrize("own", ["REDUCE_MEAN", "REDUCE_MEAN_MAX", "WEIGHTED_MEAN", "CLS_TOKEN"])
def test_the_columns_of_each_strategy_and_layer_list(own: str) -> None:
    """Every ordered choice of layers has the vector of a server that keeps these layers only."""
    config, model = served("-pooling_layer", "-1", "-3", "-2", "-pooling_strategy", own)
    pooling = RequestPooling(config, model)
    kept = [layer % model.num_hidden_layers for layer in pooling.layers]
    batch = Batch(*(np.ones(9, np.int32),) * 3, np.array([2, 7], np.int32))
    tokens = np.random.default_rng(1).normal(size=(9, 3 * model.hidden_size)).astype(np.float32)
    by_layer = dict(zip(kept, np.split(tokens, 3, axis=1), strict=True))
    choices = [each for size in (1, 2, 3) for each in itertools.permutations(pooling.layers, size)]
    for strategy, layers in itertools.product(STRATEGIES, choices):
        found = pooling.find(strategy.name.lower(), layers)
        numbers = [layer % model.num_hidden_layers for layer in layers]
        assert (found is None) == (strategy.name == own and layers == pooling.layers)
        if found is None:
            continue
        assert found == pooling.find(strategy.name, numbers)
        sent = pool_as(tokens, batch, strategy)
        vectors, _ = finish_vectors(sent, {}, {"columns": found.columns}, lambda _, rows, __: rows)
        np.testing.assert_array_equal(
            vectors, pool_as(np.concatenate([by_layer[each] for each in numbers], 1), batch, strategy)
        )
        assert vectors.shape[1] == found.width
        assert sent.shape[1] == found.sent_width == dimensions(strategy, model.hidden_size, 3)
        assert pooling.sent_width(VectorOptions(pooling=strategy).code) == found.sent_width


@pytest.mark.parametrize(
    ("args", "asked", "message"),
    [
        ((), {"pooling": "mean"}, "pooling 'mean' is unknown: set one of REDUCE_MEAN, REDUCE_MAX"),
        ((), {"pooling": "CLS"}, "did you mean CLS_TOKEN"),
        ((), {"pooling": "CLS_POOLED"}, "needs a server with -pooling_strategy CLS_POOLED.*set one of REDUCE_MEAN"),
        ((), {"pooling": "NONE"}, "needs a server with -pooling_strategy NONE"),
        ((), {"pooling": "CONCATENATED"}, "is unknown"),
        ((), {"pooling_layer": [-1]}, "pooling_layer -1 is not kept by this server: set layers of -2"),
        ((), {"pooling_layer": [-2, -2]}, "names 2 layers; this server keeps -2: name 1 to 1 of them"),
        ((), {"pooling_layer": []}, "names 0 layers"),
        ((), {"pooling_layer": [10**9]}, "is not kept"),
        (("-pooling_strategy", "NONE"), {"pooling": "REDUCE_MEAN"}, "this server returns one vector per token"),
        (("-pooling_strategy", "CLS_POOLED"), {"pooling_layer": [-2]}, "set layers of -1"),
        ((), {"pooling": "REDUCE_MEAN_MAX", "dimensions": 65}, "vectors of this pooling have 64 dimensions"),
        ((), {"pooling": "CLS_TOKEN", "long": "late"}, "pooling CLS_TOKEN does not pool the mean of the tokens"),
        ((), {"pooling": "CLS_TOKEN", "embedding_type": "int8"}, "needs the ranges .* for 32 dimensions"),
    ],
)
def test_what_the_server_does_not_have(args: tuple[str, ...], asked: dict[str, Any], message: str) -> None:
    resolver = OptionsResolver(*served(*args))
    with pytest.raises(InvalidRequest, match=message):
        resolver.resolve(RequestOptions(**asked))


def test_servers_without_dense_vectors_name_what_they_return() -> None:
    config, model = served()
    sparse = config.with_(pipeline=SentencePipeline("", (), sparse=MaskedLmHead(), has_dense=False))
    for other, returned in ((sparse, "sparse vectors"), (config.with_(task="rerank"), r"scores \(-task rerank\)")):
        pooling = RequestPooling(other, model)
        assert pooling.to_dict() == {"strategies": [], "layers": []}
        assert pooling.sent_width(0) == other.vector_size(model)
        with pytest.raises(InvalidRequest, match=f"this server returns {returned}: omit pooling"):
            pooling.find("CLS_TOKEN", None)


def test_a_pooler_is_kept_by_a_server_that_pools_with_it() -> None:
    pooling = RequestPooling(*served("-pooling_strategy", "CLS_POOLED"))
    assert "CLS_POOLED" in pooling.strategies
    assert pooling.layers == (-1,)
    assert pooling.find("cls_pooled", [-1]) is None
    assert pooling.find("CLS_TOKEN", None) is not None


def test_the_pooling_of_the_server_is_no_option() -> None:
    """So a request that names it shares vectors and cache with all others."""
    resolver = OptionsResolver(*served("-pooling_layer", "-1", "-2", "-normalize", "on"))
    plain = resolver.resolve(RequestOptions(pooling="REDUCE_MEAN", pooling_layer=[-1, -2]))
    assert plain.vector_code == plain.sent_bytes == 0
    assert plain.vector_space == resolver.resolve(RequestOptions(timing=True)).vector_space
    part = resolver.resolve(RequestOptions(pooling_layer=[-2]))
    assert part.vector_code == VectorOptions(normalize=False).code  # the engine pools, and the sink selects columns
    assert (part.columns, part.makes_unit, part.dimensions) == (((32, 64),), True, None)


FLAGS: tuple[tuple[str, ...], ...] = ((), ("-normalize", "on"), ("-dimensions", "20"), ("-mask_cls_sep",))


def sentence_folder(folder: Path) -> Path:
    """Writes a folder of sentence-transformers: the mean of tokens, normalized."""
    write_hf(folder, hf_tensors())
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = ", ".join(
        f'{{"idx": {index}, "name": "{index}", "path": "{path}", "type": "sentence_transformers.models.{kind}"}}'
        for index, (path, kind) in enumerate(kinds.items())
    )
    (folder / "modules.json").write_text(f"[{modules}]")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text('{"word_embedding_dimension": 32, "pooling_mode_mean_tokens": true}')
    return folder


@pytest.mark.parametrize("flags", FLAGS, ids=str)
@pytest.mark.parametrize("is_sentence_folder", [False, True], ids=["plain", "sentence-transformers"])
def test_the_space_is_that_of_a_server_with_this_pooling(
    flags: tuple[str, ...], is_sentence_folder: bool, tmp_path: Path
) -> None:
    folder = sentence_folder(tmp_path) if is_sentence_folder else None
    config, model = served(*flags, folder=folder)
    resolver = OptionsResolver(config, model)
    layer = str(config.pooling_layer[0])
    seen = {config.vector_spaces(model).default}
    for strategy in STRATEGIES[1:]:
        other, its_model = served(*flags, "-pooling_strategy", strategy.name, "-pooling_layer", layer, folder=folder)
        wanted = other.vector_spaces(its_model).default
        for asked in (
            RequestOptions(pooling=strategy.name),
            RequestOptions(pooling=strategy.name, vector_space=wanted),
        ):
            assert resolver.resolve(asked).vector_space == wanted
        typed = VectorOptions(embedding_type="ubinary")
        binary = resolver.resolve(RequestOptions(pooling=strategy.name, embedding_type="ubinary"))
        assert binary.vector_space == other.vector_spaces(its_model).of(typed)
        seen.add(wanted)
    assert len(seen) == len(STRATEGIES)


def test_layers_have_spaces_of_their_own() -> None:
    resolver = OptionsResolver(*served("-pooling_layer", "-1", "-2"))
    alone = served("-pooling_layer", "-2")
    found = resolver.resolve(RequestOptions(pooling_layer=[-2])).vector_space
    assert found == alone[0].vector_spaces(alone[1]).default
    swapped = resolver.resolve(RequestOptions(pooling_layer=[-2, -1])).vector_space
    assert len({found, swapped, resolver.resolve(RequestOptions(timing=True)).vector_space}) == 3


def test_rows_of_several_widths_share_a_batch() -> None:
    """The sink checks the width of a batch, and its cache returns each vector without the zeros behind it."""
    pooling = RequestPooling(*served())
    wide, narrow = (VectorOptions(pooling=each).code for each in (STRATEGIES[2], STRATEGIES[3]))
    rows = np.random.default_rng(2).normal(size=(3, 64)).astype(np.float32)
    rows[1:, 32:] = 0
    codes, lengths = np.array([wide, narrow, 0], np.int32).tobytes(), np.ones(3, np.int32)
    result = Result(1, rows, lengths, np.zeros((3, 2), np.int64), False, vector_codes=codes)
    check = ResultCheck(False, 32, "float32", pooling.sent_width)
    assert check.problem(result) == ""
    assert "not (3, 64)" in check.problem(structs.replace(result, array=rows[:, :32]))
    assert "not (3, 32)" in check.problem(structs.replace(result, vector_codes=b""))
    for max_bytes in (0, 2**20):
        cache = VectorCache(max_bytes, pooling.sent_width, "float32", False)
        assert cache.add(result) == []
        for row, (code, width) in enumerate([(wide, 64), (narrow, 32), (0, 32)]):
            entries = np.array([first_entry(1) + row])
            wanted = CachedRows(2, entries, lengths[:1], np.zeros((1, 2), np.int64), code)
            assert not cache.missing(wanted)
            np.testing.assert_array_equal(cache.result(wanted).array, rows[row : row + 1, :width])


def test_engines_without_vectors_of_tokens_are_named() -> None:
    workers = [{"engine": "mine", "has_token_vectors": False}]
    with pytest.raises(InvalidRequest, match=r"pooling is set, but the engine mine .*: omit pooling"):
        require_token_vectors("", workers)
    with pytest.raises(InvalidRequest, match=r"long is 'late', but the engine mine .*: set long to mean"):
        require_token_vectors("late", workers)


def test_values_that_the_client_refuses() -> None:
    for asked, message in (
        ({"pooling": 4}, "pooling must be the name of a strategy"),
        ({"pooling_layer": "-1"}, "pooling_layer must be a layer, a list of layers"),
        ({"pooling_layer": 1.5}, "pooling_layer must be a layer"),
        ({"pooling_layer": [0.5]}, "pooling_layer must be a whole number"),
        ({"pooling_layer": []}, "must name 1 to 256 layers"),
        ({"pooling_layer": range(300)}, "must name 1 to 256 layers"),
    ):
        with pytest.raises(OptionError, match=message):
            request_options(False, **asked)  # type: ignore[arg-type]
    assert request_options(False, pooling_layer=np.int64(-2)) == {"pooling_layer": (-2,)}  # type: ignore[arg-type]
    assert request_options(False, pooling="CLS_TOKEN", pooling_layer=np.array([-2, -1])) == {  # type: ignore[arg-type]
        "pooling": "CLS_TOKEN",
        "pooling_layer": (-2, -1),
    }


def engine_of(name: str) -> Callable[..., Any]:
    """Returns a function that creates an engine of the tiny model."""
    module = pytest.importorskip(f"bert_serving.server.engines.{name}.engine")
    if reason := module.unavailable("cpu", "fp32"):
        pytest.skip(reason)

    def make(strategy: str, layers: tuple[int, ...]) -> Any:
        _, model = served("-pooling_layer", *map(str, layers))
        spec = EngineSpec(model=model, cache_dir=CACHE, pooling_strategy=strategy, pooling_layers=layers)
        module.prepare(spec, lambda _: None)
        return module.create(spec, Device(threads=1))

    return make


@pytest.mark.parametrize("name", ["onnx", "tensorflow", "torch"])
def test_engines_give_the_tokens_of_each_strategy(name: str) -> None:
    """Pooled, they are what the engine pools itself, with masked tokens and with long sequences too."""
    make, layers = engine_of(name), (-1, -3)
    random = np.random.default_rng(3)
    lengths = np.array([5, 40, 1, 17, 9], np.int32)
    ids = random.integers(5, 40, int(lengths.sum())).astype(np.int32)
    engines = {each: make(each, layers) for each in ("REDUCE_MEAN_MAX", "SEP_TOKEN", "NONE")}
    for hidden in (0.0, 0.3):
        mask = (random.random(len(ids)) >= hidden).astype(np.int32)
        batch = Batch(ids, (ids % 2).astype(np.int32), mask, lengths)
        for source, engine in engines.items():
            tokens = engine.encode_tokens(batch)
            assert (tokens.dtype, tokens.shape) == (np.float32, (len(ids), 64)), source
            if source == "NONE":  # its own vectors are 0 where a token is masked
                np.testing.assert_allclose(engine.encode(batch), tokens * mask[:, None], atol=1e-6)
            for target in ("REDUCE_MEAN_MAX", "SEP_TOKEN"):
                found = pool_as(tokens, batch, PoolingStrategy[target])
                np.testing.assert_allclose(
                    found, engines[target].encode(batch), atol=1e-6, err_msg=f"{source} {target}"
                )
