"""Classifiers and cross-encoders behind real servers, against transformers and sentence-transformers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from joining import front
from test_families_served import POSITIONS, write_roberta

from bert_serving.client import (
    AsyncBertClient,
    BertClient,
    Classification,
    ConcurrentBertClient,
    InputTypeError,
    InvalidRequestError,
    OptionError,
    Ranked,
    TaskError,
    TooLargeError,
)
from bert_serving.client._cli.encode import main as encode_command
from raw_client import RawClient
from servers import Server, serving

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
sentence_transformers = pytest.importorskip("sentence_transformers")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "who", "is", "it", "me", "he", "##llo", "wor", "##ld", "|", "."]
QUERY = "who is it ?"
DOCUMENTS = [
    "hello world",
    "it is me\nit is me",
    "",
    "a ||| b",
    "hello world",
    "world " * 80,
    "hello it is " * 40,
    "me",
]
PAIRS = [(QUERY, document) for document in DOCUMENTS] + [("world " * 70, "hello " * 60), ("", ""), ("", "me")]
TEXTS = ["hello world", "Ein schöner Tag", "x", "a long text " * 30]
LABELS = ["negative", "neutral", "positive"]


def cross_encoder(folder: Path) -> Path:
    """Writes a random cross-encoder of BERT as sentence-transformers saves it."""
    (folder / "base").mkdir()
    (folder / "base" / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    tokenizer = transformers.BertTokenizerFast(str(folder / "base" / "vocab.txt"), model_max_length=POSITIONS)
    tokenizer.save_pretrained(folder / "base")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), max_position_embeddings=POSITIONS, num_labels=1, initializer_range=0.15, **sizes
    )
    transformers.BertForSequenceClassification(config).save_pretrained(folder / "base")
    library = sentence_transformers.CrossEncoder(str(folder / "base"), device="cpu")
    library.save_pretrained(str(folder / "saved"))
    return folder / "saved"


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Any]]:
    folder = cross_encoder(tmp_path_factory.mktemp("reranker"))
    with serving("-task", "rerank", "-num_tokenizer", "2", model_dir=folder) as server:
        yield server, sentence_transformers.CrossEncoder(str(folder), device="cpu")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Any]]:
    """A server and a function that returns the logits of transformers."""
    folder = tmp_path_factory.mktemp("classifier")
    write_roberta(folder)
    config = transformers.AutoConfig.from_pretrained(
        folder, id2label=dict(enumerate(LABELS)), label2id={label: index for index, label in enumerate(LABELS)}
    )
    torch.manual_seed(1)
    model = transformers.RobertaForSequenceClassification(config).eval()
    model.save_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def logits(texts: list[Any]) -> np.ndarray:
        rows = []
        for text in texts:
            # In a list, the library takes a pair with an empty text as a pair.
            ids = tokenizer([text], truncation="longest_first", max_length=POSITIONS, return_tensors="pt")
            with torch.no_grad():
                rows.append(model(ids["input_ids"]).logits[0].numpy())
        return np.stack(rows)

    with serving("-task", "classify", model_dir=folder) as server:
        yield server, logits


def connect(server: Server, **options: Any) -> BertClient:
    return BertClient(port=server.port, port_out=server.port_out, timeout=60_000, check_length=False, **options)


def softmax(logits: np.ndarray) -> np.ndarray:
    return torch.softmax(torch.tensor(logits), 1).numpy()


def scores_of(found: list[Classification]) -> np.ndarray:
    return np.array([list(each.scores.values()) for each in found])


def test_ranks_are_those_of_the_cross_encoder(reranker: tuple[Server, Any]) -> None:
    server, library = reranker
    wanted = library.rank(QUERY, DOCUMENTS)
    assert len({each["score"] for each in wanted}) == len(DOCUMENTS) - 1  # two documents are equal
    with connect(server) as client:
        found = client.rerank(QUERY, DOCUMENTS)
        assert [each.index for each in found] == [each["corpus_id"] for each in wanted]
        np.testing.assert_allclose(
            [each.score for each in found], [each["score"] for each in wanted], rtol=0, atol=1e-5
        )
        assert client.rerank(QUERY, iter(DOCUMENTS), top_n=3) == found[:3]
        raw = client.rerank(QUERY, DOCUMENTS, raw_scores=True)
        logits = library.predict([(QUERY, each) for each in DOCUMENTS], activation_fn=torch.nn.Identity())
        assert isinstance(found[0], Ranked)
        assert [each.index for each in raw] == [each.index for each in found]
        np.testing.assert_allclose([each.score for each in raw], logits[[each.index for each in raw]], atol=1e-5)


def test_scores_of_pairs_are_those_of_the_cross_encoder(reranker: tuple[Server, Any]) -> None:
    server, library = reranker
    with connect(server) as client:
        found = client.encode(PAIRS)
        assert (found.shape, found.dtype) == ((len(PAIRS), 1), np.float32)
        np.testing.assert_allclose(found[:, 0], library.predict(PAIRS), rtol=0, atol=1e-5)
        batched = client.encode(PAIRS, batch_size=2)
        np.testing.assert_allclose(batched, found, rtol=0, atol=1e-6)
        client.encode(PAIRS, blocking=False)
        np.testing.assert_array_equal((client.fetch_all() or [])[0], found)
        arrived = sorted(client.encode_async(iter([PAIRS, ["me"], PAIRS])), key=lambda each: each.id)
        np.testing.assert_allclose(arrived[2].embedding, found, rtol=0, atol=1e-6)
        with_prompt = client.encode(PAIRS, prompt="it ")
        np.testing.assert_allclose(with_prompt[:, 0], library.predict(PAIRS, prompt="it "), rtol=0, atol=1e-5)
        as_text = client.encode(["who is it ? ||| hello world"])
        np.testing.assert_allclose(as_text, found[:1], rtol=0, atol=1e-6)
        alone = client.encode(["hello world"], raw_scores=True)  # the head's score of one text, as that of transformers
        inputs = library.tokenizer(["hello world"], return_tensors="pt")
        with torch.no_grad():
            np.testing.assert_allclose(alone, library.model(**inputs).logits.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("texts", [TEXTS, PAIRS], ids=["texts", "pairs"])
def test_classes_are_those_of_transformers(classifier: tuple[Server, Any], texts: list[Any]) -> None:
    server, logits = classifier
    wanted = logits(texts)
    with connect(server) as client:
        found, raw = client.classify(texts), client.classify(texts, raw_scores=True)
    for results, expected in ((found, softmax(wanted)), (raw, wanted)):
        np.testing.assert_allclose(scores_of(results), expected, rtol=0, atol=1e-5)
        for each, row in zip(results, expected, strict=True):
            assert list(each.scores) == LABELS
            assert each.label == LABELS[int(row.argmax())]
            assert each.score == each.scores[each.label] == max(each.scores.values())


def test_every_client_has_the_methods(classifier: tuple[Server, Any], reranker: tuple[Server, Any]) -> None:
    with connect(classifier[0]) as client, connect(reranker[0]) as other:
        classes, ranks = client.classify(TEXTS), other.rerank(QUERY, DOCUMENTS, 2)

    async def call(server: Server) -> tuple[Any, Any, Any]:
        ports = {"port": server.port, "port_out": server.port_out}
        async with AsyncBertClient(**ports, timeout=60_000, check_length=False) as client:
            if server is classifier[0]:
                streamed = [each.embedding async for each in client.encode_async([PAIRS])]
                return await client.classify(TEXTS), await client.encode(PAIRS), streamed[0]
            return await client.rerank(QUERY, DOCUMENTS, 2), None, None

    found, pairs, streamed = asyncio.run(call(classifier[0]))
    np.testing.assert_allclose(scores_of(found), scores_of(classes), atol=1e-6)
    np.testing.assert_allclose(streamed, pairs, atol=1e-6)
    assert [each.index for each in asyncio.run(call(reranker[0]))[0]] == [each.index for each in ranks]
    ports = {"port": classifier[0].port, "port_out": classifier[0].port_out}
    for has_checks in (True, False):
        options: Any = {**ports, "timeout": 60_000, "ignore_all_checks": not has_checks}
        with (
            ConcurrentBertClient(max_concurrency=1, **options) as client,
            pytest.warns(UserWarning, match="1 of 4 texts are longer") if has_checks else nullcontext() as warned,
        ):
            np.testing.assert_allclose(scores_of(client.classify(TEXTS)), scores_of(classes), atol=1e-6)
        assert warned is None or warned[0].filename == __file__


def test_many_documents_of_many_clients_share_batches(reranker: tuple[Server, Any]) -> None:
    server, library = reranker
    words = [" ".join(["hello", "it", "world", "me"][: 1 + number % 4] * (1 + number % 7)) for number in range(300)]
    wanted = library.predict([(QUERY, each) for each in words])

    with connect(server) as client, ThreadPoolExecutor(4) as pool:

        def call(number: int) -> None:
            chosen = words[number::4] if number else words
            found = client.rerank(QUERY, chosen, batch_size=[None, 7, 50, 1024][number])
            scores = wanted[number::4] if number else wanted
            assert sorted(each.index for each in found) == list(range(len(chosen)))
            np.testing.assert_allclose(
                [each.score for each in found], scores[[each.index for each in found]], atol=1e-5
            )
            assert all((one.score, -one.index) > (two.score, -two.index) for one, two in pairwise(found))

        list(pool.map(call, range(4)))


@pytest.mark.cluster
@pytest.mark.parametrize("task", [pytest.param("classify", marks=pytest.mark.minutes), "rerank"])
def test_a_machine_joins_a_server_of_scores(
    task: str, classifier: tuple[Server, Any], reranker: tuple[Server, Any]
) -> None:
    def call(client: BertClient) -> Any:
        return client.classify(PAIRS) if task == "classify" else client.rerank(QUERY, DOCUMENTS)

    alone = classifier[0] if task == "classify" else reranker[0]
    with connect(alone) as client:
        folder, scores, found = Path(client.server_config["model_dir"]), client.encode(PAIRS), call(client)
    with front("-task", task, model_dir=folder) as server:
        machine = server.machine(model_dir=folder).wait_ready()
        server.wait_ready()
        with connect(server) as client:
            assert client.server_status["workers"][0]["machine"]
            np.testing.assert_allclose(client.encode(PAIRS), scores, rtol=0, atol=1e-6)
            labels = [each.label if isinstance(each, Classification) else each.index for each in found]
            again = call(client)
            assert [each.label if isinstance(each, Classification) else each.index for each in again] == labels
        both = [f"127.0.0.1:{each.port}:{each.port_out}" for each in (alone, server)]
        with BertClient(both, timeout=60_000, check_length=False) as client:
            np.testing.assert_allclose(client.encode(PAIRS, batch_size=2), scores, rtol=0, atol=1e-6)
            again = call(client)
            assert [each.label if isinstance(each, Classification) else each.index for each in again] == labels
            assert "statistic" in client.server_status["fronts"][both[1]]
        assert machine.stop() == 0


def test_what_a_server_does_not_compute_is_refused(
    classifier: tuple[Server, Any], reranker: tuple[Server, Any]
) -> None:
    with connect(classifier[0]) as client:
        with pytest.raises(TaskError, match=r"this server has -task classify; start one with -task rerank"):
            client.rerank(QUERY, DOCUMENTS)
        for options in ({"normalize": True}, {"dimensions": 2}):
            with pytest.raises(InvalidRequestError, match="is for vectors, but this server gives scores"):
                client.encode(TEXTS, **options)
        with pytest.raises(TooLargeError, match=rf"text 1 has 362 tokens.* {POSITIONS} "):
            client.classify([*TEXTS[:1], TEXTS[3]], truncate=False)
        with pytest.raises(TooLargeError, match=rf"pair 5 has 11 and 480 tokens, 495 .* {POSITIONS} "):
            client.classify(PAIRS, truncate=False)
        with pytest.raises(InputTypeError, match=r"texts\[0\] is a pair, but texts\[1\] is str"):
            client.classify([PAIRS[0], "x"])
        with pytest.raises(InputTypeError, match=r"texts\[1\] is tuple .* pass pairs only, or texts only"):
            client.classify(["x", PAIRS[0]])
    with connect(reranker[0]) as client:
        with pytest.raises(TaskError, match=r"this server has -task rerank; start one with -task classify"):
            client.classify(TEXTS)
        for top_n, message in ((9, "top_n is 9, but there are 8 documents"), (0, "top_n must be at least 1")):
            with pytest.raises(OptionError, match=message):
                client.rerank(QUERY, DOCUMENTS, top_n)
        with pytest.raises(InputTypeError, match=r"documents\[1\] is int"):
            client.rerank(QUERY, ["a", 3])  # type: ignore[list-item]
        with pytest.raises(InputTypeError, match="documents must be a list of texts"):
            client.rerank(QUERY, "a")
        with pytest.raises(InputTypeError, match="query must be a str"):
            client.rerank(["a"], DOCUMENTS)  # type: ignore[arg-type]


def test_a_client_of_another_language_sends_pairs(reranker: tuple[Server, Any]) -> None:
    server, library = reranker
    with RawClient(server) as raw:
        found = np.frombuffer(raw.ask(PAIRS, b'{"pairs":true}')[2], np.float32)
        np.testing.assert_allclose(found, library.predict(PAIRS), rtol=0, atol=1e-5)
        for texts, message in (([["a"]], "item 0 must be a pair"), (["a"], "item 0 must be a pair"), ([], "is empty")):
            assert message in raw.error(texts, b'{"pairs":true}')
        many = np.frombuffer(raw.ask(PAIRS[:1] * 3000, b'{"pairs":true,"raw_scores":true}')[2], np.float32)
        np.testing.assert_allclose(many, library.predict(PAIRS[:1], activation_fn=torch.nn.Identity())[0], atol=1e-5)


def test_bert_serving_encode_names_the_labels(
    classifier: tuple[Server, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server, logits = classifier
    (tmp_path / "texts").write_text("\n".join(TEXTS) + "\n")
    ports = ["-port", str(server.port), "-port_out", str(server.port_out)]
    assert encode_command([str(tmp_path / "texts"), "-o", str(tmp_path / "scores.npy"), *ports]) == 0
    np.testing.assert_allclose(np.load(tmp_path / "scores.npy"), softmax(logits(TEXTS)), rtol=0, atol=1e-5)
    assert "scores of the labels negative, neutral, positive" in capsys.readouterr().err


def test_a_head_that_does_not_fit_ends_the_start(tmp_path: Path) -> None:
    folder = cross_encoder(tmp_path).parent / "base"
    config = folder / "config.json"
    values = json.loads(config.read_text())
    for changes, task, message in (
        ({"id2label": {"0": "no", "1": "yes"}}, "rerank", "the model has 2 labels (no, yes)"),
        ({"id2label": {"0": "no", "1": "yes"}}, "classify", "classifier.weight has shape (1, 32), expected (2, 32)"),
    ):
        config.write_text(json.dumps(values | changes))
        server = Server("-task", task, model_dir=folder)
        assert server.process.wait(60) == 3
        assert message in server.log
