"""Runs every example against real servers and checks its output."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from servers import CACHE, DATA, TINY, Server, free_ports, serving

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "example"
#: Examples that the tests below run.
TESTED: set[str] = {"common.py"}


@pytest.fixture(scope="module")
def default_server() -> Iterator[tuple[Server, str]]:
    """Yields a server with the default model, and the URL of its HTTP server."""
    (http_port,) = free_ports(1)
    with serving("-http_port", http_port, "-show_tokens_to_client", model_dir=None) as server:
        yield server, f"http://localhost:{http_port}"


@pytest.fixture
def run(default_server: tuple[Server, str], tmp_path: Path):
    """Returns a function that runs an example in an empty folder and returns its output."""
    server, _ = default_server

    def run_example(name: str, *options: str, at: Server | None = server, text: str = "") -> str:
        ports = ["-port", str(at.port), "-port_out", str(at.port_out)] if at else []
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / name), *ports, *options],
            cwd=tmp_path,
            # One thread: spinning threads are slow beside other tests.
            env={**os.environ, "BERT_SERVING_CACHE": CACHE, "PYTHONIOENCODING": "utf-8", "OMP_NUM_THREADS": "1"},
            input=text,
            capture_output=True,
            encoding="utf-8",
            timeout=150,
        )
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    return run_example


def covers(*names: str):
    """Registers files as tested."""
    TESTED.update(names)
    return lambda test: test


# ---- against the default model -----------------------------------------------------------------------------------


@covers("example1_speed.py")
def test_speed(run) -> None:
    lines = run("example1_speed.py", "-sizes", "1", "16", "-num_repeat", "2").splitlines()
    assert lines[0].split() == ["texts", "seconds", "texts/s"]
    assert [line.split()[0] for line in lines[1:]] == ["1", "16"]


@covers("example2_async.py")
def test_async(run) -> None:
    printed = run("example2_async.py", "-num_batch", "3", "-batch_size", "5")
    assert printed.count("received 5 x 384") == 3
    assert "received [(5, 384), (5, 384), (5, 384)]" in printed


@covers("example3_multicast.py")
def test_multicast(run) -> None:
    printed = sorted(run("example3_multicast.py").splitlines())
    assert printed == [f"clone-client-{clone}: received {rows} x 384" for clone in (0, 1) for rows in (1, 2, 3)]


@covers("example4_tf_data.py")
def test_tf_data(run) -> None:
    printed = run("example4_tf_data.py", "-batch_size", "50")
    assert re.findall(r"vectors (\(.*?\)), labels", printed) == ["(50, 384)", "(50, 384)", "(20, 384)"]


@covers("example5_classifier.py")
def test_classifier(run) -> None:
    accuracy = re.search(r"accuracy .*: (\d+)%", run("example5_classifier.py", "-epochs", "15"))
    assert accuracy is not None
    assert int(accuracy[1]) >= 70


@covers("example6_tfrecord.py")
def test_tfrecord(run, tmp_path: Path) -> None:
    assert "the same numbers come back: True" in run("example6_tfrecord.py", "-o", "some.tfrecord")
    assert (tmp_path / "some.tfrecord").is_file()


@covers("example8_search.py")
def test_search(run) -> None:
    printed = run("example8_search.py", "-query", "do I need a graphics card?", "-topk", "1")
    assert "Can I run the server without a GPU?" in printed
    printed = run("example8_search.py", text="how do I shut it down?\nwhat about Chinese?\n\n")
    assert "How do I stop the server?" in printed
    assert "Do I have to split Chinese text into words?" in printed


@covers("own_tokenizer.py")
def test_own_tokenizer(run) -> None:
    _, server, naive, careful = run("own_tokenizer.py").split("\nthe ")
    assert "'hello', 'world', '!'" in server
    assert "[UNK]" in naive
    assert careful.count("similarity 1.00") == 2


@covers("many_clients.py")
def test_many_clients(run) -> None:
    lines = run("many_clients.py", "-num_request", "2").splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["1", "96"]


@pytest.mark.parametrize("index", ["numpy", "faiss", "hnswlib"])
@covers("vector_index.py")
def test_vector_index(run, index: str) -> None:
    if find_spec(index) is None:
        pytest.skip(f"{index} is not installed")
    printed = run("vector_index.py", "-index", index, "-query", "a drug against forgetting", "-topk", "1")
    assert f"searched with {index}" in printed
    assert "New drug slows the loss of memory in patients" in printed


@covers("with_asyncio.py")
def test_asyncio(run) -> None:
    printed = run("with_asyncio.py", "-num_user", "10")
    assert "10 users got (1, 384)" in printed
    assert "this took too long" in printed
    assert printed.count("received 30 x 384") == 4


@covers("with_pandas.py")
@pytest.mark.skipif(find_spec("pandas") is None, reason="pandas is not installed")
def test_pandas(run) -> None:
    assert run("with_pandas.py").count("  typical  ") == 4


@covers("monitor.py")
def test_monitor(run) -> None:
    lines = run("monitor.py", "-num_line", "2", "-interval", "0.1").splitlines()
    assert len(lines) == 3
    assert lines[1].split()[0] == "ready"
    assert '"num_total_seq"' in run("monitor.py", "-json")


# ---- HTTP --------------------------------------------------------------------------------------------------------


@covers("http_call.py")
def test_http_python(run, default_server: tuple[Server, str]) -> None:
    printed = run("http_call.py", "-url", default_server[1], at=None)
    assert "id 123, status 200, (2, 384)" in printed
    assert "(2, 384), the same: True" in printed
    assert "2 x 384" in printed
    assert "400: " in printed


def test_http_curl(default_server: tuple[Server, str]) -> None:
    printed = script("curl", "sh", "http_call.sh", default_server[1])
    assert '"id":123' in printed
    assert f"{2 * 384 * 4}" in printed
    assert '"state":"ready"' in printed


def test_http_javascript(default_server: tuple[Server, str]) -> None:
    printed = script("node", "node", "http_call.mjs", default_server[1])
    assert "3 vectors of 384 numbers" in printed
    assert "id 123, status 200, 3 x 384" in printed
    assert "an error: " in printed


TESTED |= {"http_call.sh", "http_call.mjs"}


def script(needed: str, program: str, name: str, url: str) -> str:
    if shutil.which(needed) is None:
        pytest.skip(f"{needed} is not installed")
    done = subprocess.run([program, str(EXAMPLES / name), url], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


# ---- with separate servers ---------------------------------------------------------------------------------------


@covers("token_vectors.py")
def test_token_vectors(run) -> None:
    vocabulary = (DATA / "golden" / "models" / "tiny" / "vocab.txt").read_text(encoding="utf-8").split()
    whole = next(word for word in vocabulary if word.isalpha() and word.isascii())
    with serving("-pooling_strategy", "NONE", "-max_seq_len", "NONE", "-show_tokens_to_client") as server:
        printed = run("token_vectors.py", "-word", whole, "-texts", whole, f"{whole} {whole}", at=server)
    assert f"words  ['{whole}', '{whole}']" in printed
    assert "  1.00" in printed


@covers("example7_layers.py")
def test_layers(run, tmp_path: Path) -> None:
    if find_spec("matplotlib") is None:
        pytest.skip("matplotlib is not installed")
    printed = run("example7_layers.py", "-model_dir", str(TINY), "-pooling_strategy", "REDUCE_MEAN", at=None)
    assert len(re.findall(r"\d+%", printed)) == 4  # its layers
    assert (tmp_path / "layers.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.minutes
@covers("fine_tuned.py")
@pytest.mark.slow
def test_fine_tuned(run, tmp_path: Path) -> None:
    printed = run("fine_tuned.py", "-epochs", "2", "-learning_rate", "3e-4", at=None)
    before, after = map(int, re.findall(r"same opinion in (\d+)%", printed))
    assert before <= 10
    assert after >= before + 30
    served, here = map(int, re.findall(r"(?:by the server|in this program): (\d+)%", printed))
    assert served == here >= 70  # chance is 50
    assert sorted(path.name for path in (tmp_path / "tuned").iterdir()) == [
        "bert_config.json",
        "model.ckpt-8.data-00000-of-00001",
        "model.ckpt-8.index",
    ]


@pytest.mark.minutes
@covers("acceptability.py")
@pytest.mark.slow
def test_acceptability(run, tmp_path: Path) -> None:
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    printed = run("acceptability.py", "-epochs", "3", at=None)
    assert served_as_trained(printed)
    first, *_, last = map(float, re.findall(r"^epoch \d+: loss (\S+)$", printed, re.M))
    assert last < 0.95 * first
    learnt = re.search(r"accuracy on 120 learnt sentences: (\d+)%", printed)
    assert learnt is not None
    assert int(learnt[1]) >= 65  # chance is 50


@pytest.mark.slow
def test_acceptability_of_the_real_corpus(run, tmp_path: Path) -> None:
    """Uses a file in the format of the corpus: source, label, the author's mark, sentence."""
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    lines = (EXAMPLES / "data" / "acceptability.tsv").read_text(encoding="utf-8").splitlines()[:24]
    rows = [(name == "acceptable", sentence) for name, sentence in (line.split("\t") for line in lines)]
    corpus = [f"gj04\t{int(good)}\t{'' if good else '*'}\t{sentence}\n" for good, sentence in rows]
    corpus[0] = corpus[0].replace("The children", 'The "children')  # quotes have no special meaning
    (tmp_path / "train.tsv").write_text("".join(corpus), encoding="utf-8")
    printed = run("acceptability.py", "-data", "train.tsv", "-epochs", "1", at=None)
    assert served_as_trained(printed)
    assert "accuracy on 6 unseen sentences" in printed
    assert "accuracy on 18 learnt sentences" in printed


def served_as_trained(printed: str) -> bool:
    difference = re.search(r"differ by at most (\S+)", printed)
    return difference is not None and float(difference[1]) < 1e-4


@covers("demo.py")
def test_demo(run) -> None:
    assert "* the sentence that is closest in meaning" in run("demo.py", at=None)


# ---- all of them -------------------------------------------------------------------------------------------------


def all_examples() -> set[str]:
    return {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".sh", ".mjs")}


def test_every_example_is_tested() -> None:
    assert all_examples() == TESTED


def test_readme_lists_every_example() -> None:
    index = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for name in all_examples() | {f"data/{path.name}" for path in (EXAMPLES / "data").iterdir()}:
        assert f"]({name})" in index, name


def test_examples_are_short_and_have_a_docstring() -> None:
    for path in EXAMPLES.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert text.startswith('"""'), path.name
        assert text.count("\n") < 140, path.name


@pytest.mark.parametrize("name", ["example1_speed.py", "monitor.py", "http_call.py"])
def test_help(run, name: str) -> None:
    printed = run(name, "--help", at=None)
    assert "Start a server first:" in printed
    assert "(default: " in printed


NEEDED = {"TensorFlow": ("tensorflow", "keras"), "PyTorch": ("torch",), "pandas": ("pandas",)}


def needing_packages() -> Iterator[tuple[str, str]]:
    """Yields each example that names a package, with the module that it imports."""
    for path in sorted(EXAMPLES.glob("*.py")):
        text = path.read_text(encoding="utf-8")
        for title in re.findall(r"^Needs (\w+): +pip install \w+", text, re.M):
            yield path.name, next(name for name in NEEDED[title] if re.search(rf"^ *import {name}\b", text, re.M))


@pytest.mark.parametrize(("name", "package"), list(needing_packages()))
def test_missing_package_is_reported(name: str, package: str, tmp_path: Path) -> None:
    (tmp_path / f"{package}.py").write_text(f"raise ModuleNotFoundError(\"No module named '{package}'\")")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, str(EXAMPLES / name)], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert f"No module named '{package}'" in done.stderr
    assert "pip install" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "program"), [("http_call.py", sys.executable), ("http_call.sh", "sh"), ("http_call.mjs", "node")]
)
def test_a_missing_http_server_is_reported(name: str, program: str) -> None:
    if shutil.which(program) is None or (program == "sh" and shutil.which("curl") is None):
        pytest.skip(f"{program} is not installed")
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    options = ["-url", url] if name.endswith(".py") else [url]
    command = [program, str(EXAMPLES / name), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "start a server with -http_port 8125" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_server_is_reported_without_the_lines_of_the_program(tmp_path: Path) -> None:
    program = (
        "import common\n"
        "from bert_serving.client import BertClient\n"
        f"BertClient(port={free_ports(1)[0]}, connect_timeout=500)\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(EXAMPLES), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith("ServerUnreachableError: no server connected at localhost")
    assert "connection refused" in done.stderr
    assert "Traceback" not in done.stderr
