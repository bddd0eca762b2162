"""The methods of clients for scores: ``classify`` and ``rerank``, blocking and for asyncio."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from . import protocol
from ._base import BaseClient
from ._blocking import BlockingClient
from ._encoding import BATCH_SIZE, E, EncodeCall
from ._output_scores import relevance, require_compared, roles_of, texts_of_roles
from ._scores import Classification, Ranked, ServerTask, classifications, query_pairs, ranking
from ._similarity import compare, joined, split, texts_of
from .protocol import FloatArray
from .text_names import name_document, name_pair, name_query, names_of_lists, naming_texts

if TYPE_CHECKING:
    from ._request_options import AllOptions, ProxyOptions
    from ._validation import Validated


class ScoringClient(BlockingClient[E]):
    """Implements the methods of `BertClient` for servers with ``-task classify`` and ``-task rerank``."""

    def classify(
        self,
        texts: Iterable[Any],
        raw_scores: bool = False,
        *,
        is_tokenized: bool = False,
        batch_size: int | None = BATCH_SIZE,
        truncate: bool = True,
    ) -> list[Classification]:
        """Classifies texts or pairs of texts, on a server with ``-task classify``.

        Args:
            texts: as for `encode`; a tuple of two texts is a pair.
            raw_scores: return logits, without the activation of the model.
            is_tokenized, batch_size, truncate: as for `encode`.

        Returns:
            A `Classification` for each text: ``label`` with the highest ``score``, and ``scores`` of all labels.

        Raises:
            TaskError: the server has another ``-task``.
            BertServingError: as `encode`.
        """
        options: AllOptions = {"raw_scores": raw_scores, "truncate": truncate}
        scores, labels = self._score("classify", texts, is_tokenized, batch_size, options)
        return classifications(scores, labels)

    def rerank(
        self,
        query: str,
        documents: Iterable[str],
        top_n: int | None = None,
        *,
        raw_scores: bool = False,
        batch_size: int | None = BATCH_SIZE,
        truncate: bool = True,
        by: Literal["sparse", "multi"] | None = None,
    ) -> list[Ranked]:
        """Sorts documents by their relevance to a query, on a server with ``-task rerank`` or with other outputs.

        Args:
            query: a text.
            documents: a list or another ordered iterable of ``str``; a document may be empty, but not with ``by``.
            top_n: number of documents to return; ``None`` for all.
            raw_scores: return logits, without the activation of the model.
            batch_size, truncate: as for `encode`.
            by: compare vectors in place of a cross-encoder: ``"sparse"`` by their inner product, ``"multi"`` by MaxSim.
                Prompts named ``query`` and ``document`` are used, if the model has them.

        Returns:
            A `Ranked` for each document, best first: its ``index`` in ``documents`` and its ``score``. Documents with
            equal scores keep their order.

        Raises:
            TaskError: the server has another ``-task``.
            OptionError: ``top_n`` is below 1, or above the number of documents.
            BertServingError: as `encode`; without the output that ``by`` names, `InvalidRequestError`.
        """
        pairs = query_pairs(query, documents, top_n)
        if by is not None:
            return ranking(self._compare(by, pairs, batch_size, truncate), top_n)
        options: AllOptions = {"raw_scores": raw_scores, "truncate": truncate}
        with naming_texts(name_pair):
            return ranking(self._score("rerank", pairs, False, batch_size, options)[0], top_n)

    def similarity(self, a: Any, b: Any) -> E:
        """Computes the cosine similarity of each text or vector of ``a`` with each of ``b``.

        Args:
            a, b: texts as for `encode`, which are encoded, or vectors: an array ``[n, d]``, one vector ``[d]``, nested
                lists or a tensor.

        Returns:
            An array ``[n, m]`` of numbers from -1 to 1, in the format of ``output_fmt``; 0 for a vector of zeros.

        Raises:
            InputTypeError, InputValueError: an argument is neither, or the vectors do not fit to each other.
            TaskError: texts, and a server that computes scores.
            BertServingError: as `encode`.
        """
        arguments = {"a": a, "b": b}
        if texts := texts_of(arguments):
            self._connection.check_usable()
            self._current_task().require_vectors()
            validated, values = self._prepared(joined(texts), False, {}, stacklevel=2)
            call = EncodeCall(validated, BATCH_SIZE, options=values, names_space=self._names_space)
            with naming_texts(names_of_lists(texts)), self._slot():
                self._run(call, show_progress_bar=False)
            self._count_truncated(call.num_truncated, call.num_texts, stacklevel=2)
            arguments |= split(call.embedding, texts)
        return self._embedding(compare(arguments))

    def _compare(self, by: str, pairs: list[tuple[str, str]], batch_size: int | None, truncate: bool) -> FloatArray:
        """Returns the scores ``[n, 1]`` of pairs of one query and each document."""
        require_compared(by)
        self._connection.check_usable()
        calls = []
        about_roles = roles_of(by, self._current_task().prompts, truncate)
        for name, texts, options in zip((name_query, name_document), texts_of_roles(pairs), about_roles, strict=True):
            validated, values = self._prepared(texts, False, options, stacklevel=3)
            call = EncodeCall(validated, batch_size, options=values, names_space=self._names_space)
            with naming_texts(name), self._slot():
                self._run(call, show_progress_bar=False)
            self._count_truncated(call.num_truncated, call.num_texts, stacklevel=3)
            calls.append(call)
        return relevance(calls[0].outputs, calls[1].outputs)

    def _score(
        self, task: str, texts: Iterable[Any], is_tokenized: bool, batch_size: int | None, options: AllOptions
    ) -> tuple[FloatArray, tuple[str, ...]]:
        """Returns the scores ``[n, labels]`` and the labels."""
        self._connection.check_usable()
        self._current_task().require(task)
        validated, values = self._prepared(texts, is_tokenized, options, stacklevel=3)
        call = EncodeCall(validated, batch_size, options=values, names_space=self._names_space)
        with self._slot():
            self._run(call, show_progress_bar=False)
        self._count_truncated(call.num_truncated, call.num_texts, stacklevel=3)
        found = self._current_task()  # again, because the server may have been replaced meanwhile
        found.require(task)
        found.check(call.embedding)
        return call.embedding, found.labels

    def _current_task(self) -> ServerTask:
        if self._any_check and self._server_task is not None:  # known, and read again after each reconnect
            return self._server_task
        with self._slot():
            return ServerTask.of(self._ask(protocol.SHOW_CONFIG))


class AsyncScoringClient(BaseClient[E]):
    """Implements the methods of `AsyncBertClient` for servers with ``-task classify`` and ``-task rerank``."""

    if TYPE_CHECKING:  # methods of `AsyncBertClient`

        async def connect(self) -> None: ...
        async def _ask(self, command: bytes) -> dict[str, Any]: ...
        async def _prepared(
            self, texts: Iterable[Any], is_tokenized: bool, options: AllOptions | ProxyOptions, stacklevel: int
        ) -> tuple[Validated, dict[str, Any]]: ...
        async def _run(self, call: EncodeCall, show_progress_bar: bool) -> None: ...

    async def classify(
        self,
        texts: Iterable[Any],
        raw_scores: bool = False,
        *,
        is_tokenized: bool = False,
        batch_size: int | None = BATCH_SIZE,
        truncate: bool = True,
    ) -> list[Classification]:
        """Classifies texts; arguments, result and errors are those of `BertClient.classify`."""
        options: AllOptions = {"raw_scores": raw_scores, "truncate": truncate}
        scores, labels = await self._score("classify", texts, is_tokenized, batch_size, options)
        return classifications(scores, labels)

    async def rerank(
        self,
        query: str,
        documents: Iterable[str],
        top_n: int | None = None,
        *,
        raw_scores: bool = False,
        batch_size: int | None = BATCH_SIZE,
        truncate: bool = True,
        by: Literal["sparse", "multi"] | None = None,
    ) -> list[Ranked]:
        """Sorts documents; arguments, result and errors are those of `BertClient.rerank`."""
        pairs = query_pairs(query, documents, top_n)
        if by is not None:
            return ranking(await self._compare(by, pairs, batch_size, truncate), top_n)
        options: AllOptions = {"raw_scores": raw_scores, "truncate": truncate}
        with naming_texts(name_pair):
            return ranking((await self._score("rerank", pairs, False, batch_size, options))[0], top_n)

    async def similarity(self, a: Any, b: Any) -> E:
        """Computes cosine similarities; arguments, result and errors are those of `BertClient.similarity`."""
        arguments = {"a": a, "b": b}
        if texts := texts_of(arguments):
            self._connection.check_usable()
            await self.connect()
            (await self._current_task()).require_vectors()
            validated, values = await self._prepared(joined(texts), False, {}, stacklevel=2)
            call = EncodeCall(validated, BATCH_SIZE, options=values, names_space=self._names_space)
            with naming_texts(names_of_lists(texts)):
                await self._run(call, show_progress_bar=False)
            self._count_truncated(call.num_truncated, call.num_texts, stacklevel=2)
            arguments |= split(call.embedding, texts)
        return self._embedding(compare(arguments))

    async def _compare(
        self, by: str, pairs: list[tuple[str, str]], batch_size: int | None, truncate: bool
    ) -> FloatArray:
        """Returns the scores ``[n, 1]``, as ``ScoringClient._compare``."""
        require_compared(by)
        self._connection.check_usable()
        await self.connect()
        calls = []
        about_roles = roles_of(by, (await self._current_task()).prompts, truncate)
        for name, texts, options in zip((name_query, name_document), texts_of_roles(pairs), about_roles, strict=True):
            validated, values = await self._prepared(texts, False, options, stacklevel=3)
            call = EncodeCall(validated, batch_size, options=values, names_space=self._names_space)
            with naming_texts(name):
                await self._run(call, show_progress_bar=False)
            self._count_truncated(call.num_truncated, call.num_texts, stacklevel=3)
            calls.append(call)
        return relevance(calls[0].outputs, calls[1].outputs)

    async def _score(
        self, task: str, texts: Iterable[Any], is_tokenized: bool, batch_size: int | None, options: AllOptions
    ) -> tuple[FloatArray, tuple[str, ...]]:
        """Returns the scores ``[n, labels]`` and the labels, as ``ScoringClient._score``."""
        self._connection.check_usable()
        await self.connect()
        (await self._current_task()).require(task)
        validated, values = await self._prepared(texts, is_tokenized, options, stacklevel=3)
        call = EncodeCall(validated, batch_size, options=values, names_space=self._names_space)
        await self._run(call, show_progress_bar=False)
        self._count_truncated(call.num_truncated, call.num_texts, stacklevel=3)
        found = await self._current_task()
        found.require(task)
        found.check(call.embedding)
        return call.embedding, found.labels

    async def _current_task(self) -> ServerTask:
        if self._any_check and self._server_task is not None:
            return self._server_task
        return ServerTask.of(await self._ask(protocol.SHOW_CONFIG))
