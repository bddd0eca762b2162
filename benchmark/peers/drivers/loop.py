"""Implements the job loop of every driver: reads a JSON line per job, responds with seconds or vectors.

A driver is a program in the environment of one system. It provides ``encode(texts) -> vectors`` and, for systems with
concurrent callers, ``connect() -> encode`` for a separate caller. Runs on Python 3.7 and later.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
import traceback

#: Texts of each call of the load ``groups``.
GROUP = 16


def run(encode, texts, connect=None):
    """Runs jobs ``[kind, number]`` until standard input ends.

    Kinds, on the first ``number`` texts: ``bulk`` (one call; its seconds), ``single`` (one call per text; seconds of
    each), ``groups`` (one call per ``GROUP`` texts; seconds of each), ``many`` (32 callers, each with a share of the
    texts, one at a time; seconds until all are done). For ``vectors``, ``number`` is a list of indexes; the result is
    the vectors of these texts. The result of a failed job is ``{"failure": reason}``, also if only one caller failed.
    """
    callers = []

    def bulk(number):
        started = time.perf_counter()
        encode(texts[:number])
        return [time.perf_counter() - started]

    def in_calls_of(size, number):
        seconds = []
        for start in range(0, number, size):
            started = time.perf_counter()
            encode(texts[start : min(start + size, number)])
            seconds.append(time.perf_counter() - started)
        return seconds

    def single(number):
        return in_calls_of(1, number)

    def groups(number):
        return in_calls_of(GROUP, number)

    def many(number):
        while len(callers) < 32:
            callers.append(connect())

        failures = []  # append is atomic

        def work(call, part):
            try:
                for text in part:
                    if failures:
                        break
                    call([text])
            except Exception as error:  # raised below, so that an early end does not look fast
                failures.append(error)

        threads = [
            threading.Thread(target=work, args=(call, texts[start:number:32])) for start, call in enumerate(callers)
        ]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - started
        if failures:
            raise failures[0]
        return [seconds]

    def vectors(indexes):
        return [[float(value) for value in row] for row in encode([texts[index] for index in indexes])]

    kinds = {"bulk": bulk, "single": single, "groups": groups, "many": many, "vectors": vectors}
    answer("ready")
    for line in sys.stdin:
        kind, number = json.loads(line)
        try:
            value = kinds[kind](number)
        except Exception as error:
            traceback.print_exc()
            value = {"failure": f"{type(error).__name__}: {error}"}
        answer(value)


def answer(value):
    """Writes a line of JSON with a mark that distinguishes it from the output of libraries."""
    sys.stdout.write("\nanswer:" + json.dumps(value) + "\n")
    sys.stdout.flush()


def read_texts(path):
    """Reads the texts, or pairs of texts, from a JSON list."""
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def in_order(texts, size, tokens, encode_some):
    """Encodes batches of texts of similar ``len(tokens[text])``; returns the rows in the order of ``texts``."""
    import numpy as np

    order = sorted(range(len(texts)), key=lambda index: len(tokens[texts[index]]))
    rows = [None] * len(texts)
    for start in range(0, len(order), size):
        part = order[start : start + size]
        for index, row in zip(part, encode_some([texts[index] for index in part])):  # noqa: B905, it is new in 3.10
            rows[index] = row
    return np.stack(rows)


def in_places(scores):
    """Returns pairs of index and score as rows of one value in the order of the indexes."""
    return [[score] for _, score in sorted(scores)]


def json_poster(port, path):
    """Returns a function that posts a JSON object over one keep-alive connection and returns the JSON response.

    The function raises RuntimeError if the status is not 200.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port)
    used = time.monotonic()

    def post(body):
        nonlocal used
        if time.monotonic() - used > 2:  # the server closes idle connections
            connection.close()
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = json.loads(response.read())
        used = time.monotonic()
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {answer}")
        return answer

    return post
