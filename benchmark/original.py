"""Compares with the original, bert-serving-server 1.10.0 on TensorFlow 1.15, with the same weights and texts.

    python benchmark/original.py --python3.7 /path/to/python3.7

Installs the unmodified original in a virtual environment, and writes a TF1 checkpoint in BERT-base shape with random
weights (speed does not depend on their values). Starts both servers with one worker each on the CPU, and checks that
both return the same vectors. The servers are then measured alternately, so that a drift of the machine affects both.
Prints a Markdown table of medians and of the ratios of neighbouring rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from texts import sts_sentences

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "bert-serving-benchmark"
PACKAGES = ["tensorflow==1.15.5", "protobuf<3.21", "bert-serving-server==1.10.0", "bert-serving-client==1.10.0"]
BASE = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "initializer_range": 0.02,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}

#: Runs in a separate process, with either client.
DRIVER = HERE / "peers" / "drivers" / "bert_client.py"


class PeerError(RuntimeError):
    """A server did not start, or a request of its client failed; the message contains the reason."""


def install_original(python: str) -> Path:
    """Installs the packages of the original once; returns its interpreter."""
    folder = CACHE / "original"
    interpreter = folder / "bin" / "python"
    if not (folder / ".complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        print("installing bert-serving-server 1.10.0 and TensorFlow 1.15.5 ...", file=sys.stderr)
        subprocess.run([python, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(interpreter), "-m", "pip", "install", "-q", *PACKAGES], check=True)
        (folder / ".complete").touch()
    return interpreter


def write_checkpoint() -> Path:
    """Writes a random BERT-base with the default vocabulary as a TF1 checkpoint, once; returns its folder."""
    folder = CACHE / "base-tf1"
    if (folder / "bert_model.ckpt.index").exists():
        return folder
    from bert_serving.server.model.default import default_model_dir
    from bert_serving.server.model.weights import expected_shapes

    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow as tf

    folder.mkdir(parents=True, exist_ok=True)
    vocab = default_model_dir()
    assert vocab, "the default model is not installed; run make setup"
    shutil.copy(Path(vocab) / "vocab.txt", folder / "vocab.txt")
    (folder / "bert_config.json").write_text(json.dumps(BASE))
    from bert_serving.server.model.config import parse_config, ModelConfig  # noqa: I001

    sizes = parse_config(dict(BASE), "benchmark")
    model = ModelConfig(str(folder), "", "", "", "tf1", False, **sizes)
    rng = np.random.default_rng(0)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = []
        for name, shape in expected_shapes(model, BASE["num_hidden_layers"], True).items():
            value = rng.normal(0, 0.02, shape).astype(np.float32)
            if name.endswith("gamma"):
                value += 1
            variables.append(tf.compat.v1.get_variable("bert/" + name, initializer=value))
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver(variables).save(session, str(folder / "bert_model.ckpt"), write_meta_graph=False)
    return folder


class RunningPeer:
    """A server of one version, and a client process of the same version."""

    def __init__(self, name: str, python: str, start: list[str], port: int, args: list[str], texts: Path) -> None:
        self.name = name
        self.log = tempfile.NamedTemporaryFile("w+", suffix=".log")  # noqa: SIM115
        ports = ["-port", str(port), "-port_out", str(port + 1), "-cpu", "-num_worker", "1"]
        env = {**os.environ, "PATH": f"{Path(python).parent}:{os.environ['PATH']}"}
        env.pop("PYTHONPATH", None)
        self.server = subprocess.Popen([*start, *ports, *args], stdout=self.log, stderr=self.log, env=env, cwd="/",
                                       start_new_session=True)  # fmt: skip
        while "all set, ready to serve request!" not in Path(self.log.name).read_text():
            if self.server.poll() is not None:
                raise PeerError(f"{name} did not start:\n{Path(self.log.name).read_text()[-2000:]}")
            time.sleep(0.2)
        self.driver = subprocess.Popen([python, str(DRIVER), str(port), str(texts)], stdin=subprocess.PIPE,
                                       stdout=subprocess.PIPE, text=True, env=env, cwd="/")  # fmt: skip
        self._answer()

    def request(self, kind: str, number: int | list[int]) -> Any:
        """Sends a job to the driver, see ``peers/drivers/loop.py``, and returns its result.

        Raises:
            PeerError: a request failed.
        """
        assert self.driver.stdin is not None
        self.driver.stdin.write(json.dumps([kind, number]) + "\n")
        self.driver.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self.driver.stdout is not None
        for line in self.driver.stdout:
            if line.startswith("answer:"):
                value = json.loads(line.removeprefix("answer:"))
                if isinstance(value, dict):
                    raise PeerError(f"{self.name}: {value['failure']}")
                return value
        raise PeerError(f"{self.name}: its client ended with exit code {self.driver.wait()}")

    def close(self) -> None:
        self.driver.kill()
        self.server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.server.wait(15)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.server.pid, 9)  # the original does not stop its children
        self.server.wait()


@contextlib.contextmanager
def both(
    python37: Path, model: Path, max_seq_len: int, texts: Path, extra: list[str]
) -> Iterator[tuple[RunningPeer, RunningPeer]]:
    args = ["-model_dir", str(model), "-max_seq_len", str(max_seq_len)]
    original = RunningPeer("1.10.0", str(python37), [str(python37.parent / "bert-serving-start")], 18610, args, texts)
    try:
        ours = RunningPeer(
            "this", sys.executable, [sys.executable, "-m", "bert_serving.server"], 18620, args + extra, texts
        )
    except BaseException:
        original.close()
        raise
    try:
        yield original, ours
    finally:
        original.close()
        ours.close()


def compare(peers: tuple[RunningPeer, RunningPeer], kind: str, number: int, rounds: int) -> tuple[float, float, float]:
    """Returns the median seconds of each peer, and the median ratio original / this of neighbouring rounds."""
    reduce: Callable[[list[float]], float] = statistics.median if kind == "single" else sum
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for peer, into in zip(peers, seconds, strict=True):
            into.append(reduce(peer.request(kind, number)))
    ratio = statistics.median(a / b for a, b in zip(*seconds, strict=True))
    return statistics.median(seconds[0]), statistics.median(seconds[1]), ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python3.7", dest="python37", default=shutil.which("python3.7"), help="interpreter of 3.7")
    parser.add_argument("--max_seq_len", type=int, nargs="+", default=[25, 128])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--extra", default="", help="more flags for this server, as '-dtype bf16'")
    args = parser.parse_args()
    if not args.python37:
        parser.error("the original needs Python 3.7; set its interpreter with --python3.7")
    python37, model = install_original(args.python37), write_checkpoint()
    sentences = sts_sentences()
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(sentences, file)
        file.flush()
        print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; {len(sentences)} STS-B sentences")
        print(f"BERT-base shape, layer -2, mean; flags of this server: {args.extra or 'none'}\n")
        print("| max_seq_len | load | 1.10.0 | this | ratio |\n|---|---|---|---|---|", flush=True)
        for length in args.max_seq_len:
            few = length > 40
            with both(python37, model, length, Path(file.name), args.extra.split()) as peers:
                old, new = (np.array(peer.request("vectors", list(range(16)))) for peer in peers)
                worst = float(np.abs(old - new).max())
                for kind, number, words in (
                    ("bulk", 128 if few else 512, "one request of {n}"),
                    ("single", 20 if few else 60, "one sentence at a time, p50"),
                    ("many", 128 if few else 256, "32 clients, one sentence at a time"),
                ):
                    a, b, ratio = compare(peers, kind, number, args.rounds)
                    if kind == "single":
                        cells = f"{a * 1e3:.1f} ms | {b * 1e3:.1f} ms"
                    else:
                        cells = f"{number / a:.1f} /s | {number / b:.1f} /s"
                    print(f"| {length} | {words.format(n=number)} | {cells} | {ratio:.1f} x |", flush=True)
                print(f"| {length} | largest difference of a value in 16 vectors | | {worst:.1e} | |", flush=True)


if __name__ == "__main__":
    try:
        main()
    except PeerError as error:
        sys.exit(f"benchmark/original.py: {error}")
