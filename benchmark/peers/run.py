"""Compares this project with its peers on this machine: same texts and weights, measured alternately in rounds.

    python benchmark/peers/run.py --python3.7 /path/to/python3.7

The first run creates an environment for each peer (a few minutes, some gigabytes) under ~/.cache/bert-serving-benchmark
and writes the models there; ``--setup`` does only this. All systems are started. Before a system is timed, its vectors
must match those of the first: cosine at least 0.999 in fp32, 0.99 in bf16, 0.8 in int8. The systems are then measured
alternately, so that a drift of the machine affects all. Loads: one request of all texts; one text at a time; 32 clients
with one text at a time each; requests of 16 texts. The slowest systems get fewer texts, and the table reports the
numbers. Scores of cross-encoders are compared by their correlation. Rows named "matrix products alone" compute only the
products of the dense layers: no program that uses these libraries is faster.
Writes a Markdown table, and JSON with every round. The table gives the reason if a peer cannot be installed or started,
fails, or computes different vectors. No further round starts after ``--minutes``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import report
from exports import export
from install import PIP_ARGS, InstallError, interpreter, versions
from peers import NOT_MEASURED, Peer, exports_of
from report import LOADS, Result
from running_peer import PeerError, RunningPeer
from workloads import WORKLOADS, Workload

from bert_serving.server.benchmark.machine import machine
from bert_serving.server.model.config import load_model_config
from bert_serving.server.tokenization.factory import load_tokenizer

#: Numbers of compared sentences: the first ones, and some long ones of at least ``LONG_TOKENS`` tokens. Each system
#: gets those that it does not truncate.
CHECKED, CHECKED_LONG, LONG_TOKENS = 40, 8, 35
#: Minimum cosine to the fp32 vectors, with the mean vector subtracted. Vectors of paragraphs are similar, so
#: int8 of ONNX Runtime reaches 0.94 there; mixed-up vectors do not reach 0.8.
MIN_COSINE = {"fp32": 0.999, "bf16": 0.99, "int8": 0.8}
#: Bytes of memory that must be available before a system is started; the largest takes about this much.
MIN_AVAILABLE = 2 << 30
#: Default of ``--minutes`` for each model.
MINUTES = 16


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python3.7", dest="python37", default=shutil.which("python3.7"), help="for the original")
    parser.add_argument("--model", choices=WORKLOADS, nargs="+", default=list(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=3, help="maximum number of rounds")
    parser.add_argument(
        "--minutes",
        type=float,
        help="start no further round after this time, by default 16 for each model; one always runs",
    )
    parser.add_argument(
        "--share", type=float, default=1.0, help="fraction of the texts of each load, at least those of --quick"
    )
    parser.add_argument("--setup", action="store_true", help="only install the systems and write the models")
    parser.add_argument(
        "--only", nargs="+", default=[], help="systems whose name, how, dtype or backend contains one of these words"
    )
    parser.add_argument("--quick", action="store_true", help="a few sentences and one round, to test the script")
    parser.add_argument("--pip", default="", help="additional arguments of pip, such as '--extra-index-url URL'")
    parser.add_argument("--out", type=Path, default=Path("bert-serving-peers"))
    args = parser.parse_args()
    if args.minutes is None:
        args.minutes = MINUTES * len(args.model)
    return args


def to_compare(hf: str, items: list[str] | list[list[str]]) -> dict[int, int]:
    """Returns the items whose vectors or scores are compared: number of tokens by index."""
    sentences = [" ".join(item) if isinstance(item, list) else item for item in items]
    model = load_model_config(hf)
    tokenizer = load_tokenizer(model.vocab_path, lower_case=None, max_seq_len=512, max_tokens=512)
    lengths = tokenizer.encode(sentences).lengths.tolist()
    long = [index for index in range(CHECKED, len(sentences)) if lengths[index] >= LONG_TOKENS]
    return {index: lengths[index] for index in (*range(CHECKED), *long[:CHECKED_LONG])}


def start(
    args: argparse.Namespace, workload: Workload, hf: str, tf1: str | None, texts: Path
) -> Iterator[tuple[Result, RunningPeer | None]]:
    """Yields a result for each peer, those of this project first, with the running peer if it started."""
    share = 0 if args.quick else args.share
    usual = {load: max(number, int(workload.numbers[load] * share)) for load, number in workload.quick.items()}
    peers = [peer for peer in workload.peers(hf, tf1) if is_selected(peer, args.only)]
    for peer in sorted(peers, key=lambda peer: not peer.is_ours):
        numbers = {load: int(number * peer.share) for load, number in usual.items()}
        result, running_peer = Result(peer, numbers), None
        log(f"starting {peer.label}, {peer.how}, {peer.dtype}")
        try:
            if (available := psutil.virtual_memory().available) < MIN_AVAILABLE:
                raise PeerError(f"only {available >> 20} MiB of memory are available: select fewer systems by --only")
            python = interpreter(peer.environment, args.python37)
            running_peer = RunningPeer(peer, python, hf, texts)
        except (InstallError, PeerError, OSError, subprocess.CalledProcessError) as error:
            result.failure = str(getattr(error, "stderr", None) or error)
            log(result.failure)
        yield result, running_peer


def mark_failed(result: Result, running_peer: RunningPeer, why: str) -> None:
    """Stores the reason in the row, and stops the peer, so that it does not disturb the others."""
    result.failure = why
    log(f"{result.peer.label}, {result.peer.dtype}: {why}")
    running_peer.close()


def compare_vectors(running: list[tuple[Result, RunningPeer]], lengths: dict[int, int]) -> None:
    """Stores the worst cosine of each peer to a reference in fp32; stops peers with different vectors.

    The reference is sentence-transformers with PyTorch; without it, another system; without others, this project.
    The mean vector is subtracted first: the vectors of a random model are similar, which would hide a mix-up.

    Args:
        lengths: number of tokens of the compared sentences by index; a peer gets those that it does not truncate.
    """
    vectors: dict[int, dict[int, np.ndarray]] = {}
    for result, running_peer in running:
        if result.peer.how == "limit":
            continue
        asked = [index for index, length in lengths.items() if length <= result.peer.max_seq_len]
        try:
            rows = running_peer.request("vectors", asked)
        except PeerError as error:
            mark_failed(result, running_peer, str(error))
            continue
        if len(rows) == len(asked) and len({len(row) for row in rows}) == 1:
            vectors[id(result)] = dict(zip(asked, map(np.array, rows), strict=True))
        else:
            shape = f"{len(rows)} rows of {sorted({len(row) for row in rows})} values"
            mark_failed(result, running_peer, f"it returned {shape} for {len(asked)} sentences, so it is not timed")
    answered = [(result, running_peer) for result, running_peer in running if id(result) in vectors]
    full = [result for result, _ in answered if result.peer.is_full_precision and result.peer.max_seq_len >= 128]
    if not full:
        return
    preferred = min(full, key=lambda one: (one.peer.environment != "sentence-transformers", one.peer.is_ours))
    reference = vectors[id(preferred)]
    for result, running_peer in answered:
        result.cosine = worst_cosine(vectors[id(result)], reference)
        least = MIN_COSINE[result.peer.dtype]
        if not result.cosine >= least:  # also true for NaN
            why = f"its vectors differ from those of the others (cosine {result.cosine:.4f}, minimum {least})"
            mark_failed(result, running_peer, f"{why}, so it is not timed")


def worst_cosine(own: dict[int, np.ndarray], reference: dict[int, np.ndarray]) -> float:
    """Returns the minimum cosine to the reference, with its mean subtracted; NaN for different shapes.

    For scores, which are rows of one value, returns their correlation.
    """
    mine, theirs = np.stack(list(own.values())), np.stack([reference[index] for index in own])
    if mine.shape != theirs.shape:
        return float("nan")
    if theirs.shape[1] == 1:  # scores: the correlation over all items
        mine, theirs = mine.T - mine.mean(), theirs.T - theirs.mean()
    else:
        mine, theirs = (array / np.linalg.norm(array, axis=1, keepdims=True) for array in (mine, theirs))
        mean = theirs.mean(0)
        mine, theirs = mine - mean, theirs - mean
    a, b = mine, theirs
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def measure(running: list[tuple[Result, RunningPeer]], rounds: int, deadline: float) -> None:
    """Measures all peers alternately until ``time.monotonic()`` is ``deadline``.

    Before the first round, each peer does a part of the work that is not measured.
    """
    took = 0.0
    for number in range(-1, rounds):
        if number > 0 and time.monotonic() + took > deadline:
            log(f"time limit reached after {number} of {rounds} rounds")
            break
        log("warming up" if number < 0 else f"round {number + 1} of {rounds}")
        started = time.monotonic()
        turn = max(0, number) % len(running)  # the first peer changes from round to round
        for result, running_peer in running[turn:] + running[:turn]:
            for load in LOADS:
                if result.failure or (load == "many" and result.peer.how != "served"):
                    continue
                count = result.numbers[load]
                try:
                    before = running_peer.processor_seconds()
                    seconds = running_peer.request(load, count if number >= 0 else max(1, count // 4))
                    used = running_peer.processor_seconds() - before
                except PeerError as error:
                    mark_failed(result, running_peer, str(error))
                    break
                if number >= 0:
                    result.seconds.setdefault(load, []).append(statistics.median(seconds))
                    result.processor_ms.setdefault(load, []).append(1e3 * used / count)
        took = time.monotonic() - started
    for result, running_peer in running:
        if not result.failure:
            try:
                result.memory_mib = running_peer.memory_mib()
            except PeerError as error:
                mark_failed(result, running_peer, str(error))


def compare(args: argparse.Namespace, model: str, deadline: float) -> tuple[str, dict[str, object]]:
    """Compares the peers on one model; returns its tables as Markdown, and everything as a dictionary."""
    workload = WORKLOADS[model]
    hf, tf1 = workload.folders()
    texts = workload.texts()
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump(texts, file)
        file.flush()
        results: list[Result] = []
        running: list[tuple[Result, RunningPeer]] = []
        try:
            for result, running_peer in start(args, workload, hf, tf1, Path(file.name)):
                results.append(result)
                if running_peer is not None:
                    running.append((result, running_peer))
            if running:
                compare_vectors(running, to_compare(hf, texts))
                measure(running, 1 if args.quick else args.rounds, deadline)
        finally:
            for _, running_peer in running:
                running_peer.close()
    rows = list(workload.peers(hf, tf1))
    results.sort(key=lambda result: rows.index(result.peer))
    markdown = f"### {workload.title}\n\n{report.table(results, workload.unit)}\n{report.summary(results)}"
    return markdown, {"model": workload.title, "systems": [report.to_dict(result) for result in results]}


def is_selected(peer: Peer, words: list[str]) -> bool:
    name = f"{peer.name} {peer.how} {peer.dtype} {peer.backend}"
    return not words or any(word in name for word in words)


def selected_peers(args: argparse.Namespace) -> list[Peer]:
    """Returns the selected systems of all selected models, without their paths."""
    peers = [peer for model in args.model for peer in WORKLOADS[model].peers("-", "-")]
    return [peer for peer in peers if is_selected(peer, args.only)]


def facts(args: argparse.Namespace) -> dict[str, object]:
    """Returns the machine, and the versions of each selected environment that can be created."""
    words = ["python3.7" if word == args.python37 else word for word in sys.argv[1:]]
    found = {}
    peers = selected_peers(args)
    for environment in dict.fromkeys(peer.environment for peer in peers):
        with contextlib.suppress(InstallError):
            found[environment] = versions(interpreter(environment, args.python37))
    return {
        "command": shlex.join(["python", "benchmark/peers/run.py", *words]),
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "machine": machine(),
        "load_before": round(os.getloadavg()[0], 1),
        "versions": found,
    }


def head(about: dict[str, Any]) -> str:
    """Returns the description of the tables as Markdown."""
    machine, lines = about["machine"], [f"    {about['command']}", ""]
    lines.append(
        f"{about['date']}; {machine['processor']}, {machine['cores']} cores "
        f"({' '.join(machine.get('features', []))}), load before the run {about['load_before']}. "
        "Medians of the rounds. After each figure: speed of this server relative to the system, in the same precision "
        "class (fp32, or less) and in the same round. Worst cosine: to fp32 vectors, with the mean vector subtracted."
    )
    lines += [
        "",
        f"Not measured: {NOT_MEASURED}.",
        "",
        *(f"- {name}: {', '.join(f'{k} {v}' for k, v in of.items())}" for name, of in about["versions"].items()),
    ]
    return "\n".join(lines)


def log(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def setup(args: argparse.Namespace) -> int:
    """Installs the selected systems and writes the models, so that the comparison does neither."""
    code = 0
    for model in args.model:
        workload = WORKLOADS[model]
        hf, tf1 = workload.folders()
        for peer in workload.peers(hf, tf1):
            if not is_selected(peer, args.only):
                continue
            log(f"{workload.title}: {peer.label}, {peer.dtype}")
            try:
                interpreter(peer.environment, args.python37)
                for kind in exports_of((*peer.driver, *(peer.server or ()))):
                    export(kind, hf)
            except (InstallError, OSError, subprocess.CalledProcessError) as error:
                log(f"{peer.label}: {getattr(error, 'stderr', None) or error}")
                code = 1
    return code


def main() -> int:
    args = parse()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # also stops the peers
    PIP_ARGS.extend(shlex.split(args.pip))
    if args.setup:
        return setup(args)
    began = time.monotonic()
    about = facts(args)
    args.out.mkdir(parents=True, exist_ok=True)
    parts, models = [head(about)], []
    for index, model in enumerate(args.model, 1):
        deadline = began + 60 * args.minutes * index / len(args.model)
        markdown, found = compare(args, model, deadline)
        parts.append(markdown)
        models.append(found)
        text = "\n\n".join(parts)
        (args.out / "peers.md").write_text(text, "utf-8")
        (args.out / "peers.json").write_text(json.dumps({**about, "models": models}, indent=1) + "\n", "utf-8")
    print(text)
    log(f"written to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
