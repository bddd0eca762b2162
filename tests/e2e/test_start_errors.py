"""A start that cannot succeed ends in seconds with exit code 3 and one line with the reason, without a traceback."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bert_serving.client import BertClient
from bert_serving.server.errors import ConfigError
from bert_serving.server.http.bearer_token import TOKEN_VARIABLE, read_token
from bert_serving.server.model.cache import CacheError, default_cache_dir
from servers import TINY, Server, free_ports, serving

NESTED = "[" * 200_000 + "]" * 200_000
VOCABULARY = (TINY / "vocab.txt").read_text("utf-8")


def write(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text, "utf-8") and None


def set_layers(number: int) -> Callable[[Path], None]:
    config = json.loads((TINY / "bert_config.json").read_text())
    return write("bert_config.json", json.dumps({**config, "num_hidden_layers": number}))


def replace_vocabulary(name: str, text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "vocab.txt").unlink()
        write(name, text)(folder)

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (write("bert_config.json", f'{{"a": {NESTED}}}'), "bert_config.json is not valid JSON"),
        (write("modules.json", NESTED), "modules.json is not valid JSON"),
        (write("tokenizer_config.json", NESTED), "tokenizer_config.json"),
        (replace_vocabulary("tokenizer.json", NESTED), "tokenizer.json is not valid JSON"),
        (replace_vocabulary("vocab.txt", VOCABULARY.replace("[UNK]", "[unused]")), "lacks [UNK]"),
        (set_layers(1_000_000), "num_hidden_layers is 1000000, more than 1024"),
    ],
)
def test_an_invalid_model_folder(change: Callable[[Path], None], reason: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    change(folder)
    fails_with(reason, Server("-engine", "zeros", model_dir=folder))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["-model_dir", "~no-such-user/model"], "-model_dir ~no-such-user/model: "),
        (["-ckpt_name", "~no-such-user/bert_model.ckpt"], "-ckpt_name ~no-such-user/bert_model.ckpt: "),
        (["-ckpt_name", "/no/such/bert_model.ckpt"], "/no/such"),
    ],
)
def test_a_path_that_does_not_exist(options: list[str], reason: str) -> None:
    fails_with(reason, Server("-engine", "zeros", *options))


def test_a_path_that_is_too_long() -> None:
    path = "/" + "x" * 300
    server = Server("-engine", "zeros", model_dir=path)
    fails_with(f"{os.strerror(errno.ENAMETOOLONG)}; shorten the path", server)
    assert "[Errno" not in server.log


#: Runs a program without the right of root to read all files.
AS_OTHERS = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()


@pytest.mark.skipif(bool(AS_OTHERS) and shutil.which("setpriv") is None, reason="root may read all files")
@pytest.mark.parametrize("name", sorted(path.name for path in TINY.iterdir()))
@pytest.mark.parametrize("is_further", [False, True], ids=["only-model", "further-model"])
def test_a_file_of_the_model_that_may_not_be_read(name: str, is_further: bool, tmp_path: Path) -> None:
    folder = shutil.copytree(TINY, tmp_path / "model")
    (folder / name).chmod(0)
    options = ("-model", f"second={folder}") if is_further else ()
    server = Server("-engine", "zeros", *options, model_dir=TINY if is_further else folder, prefix=AS_OTHERS)
    fails_with(f"{folder / name}: {os.strerror(errno.EACCES)}; check the permissions", server)
    assert ("-model second: " in server.log) == is_further


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no socket files")
def test_a_folder_for_sockets_that_is_not_writable() -> None:
    for folder in ("/no/such/folder", "/dev/null", "/proc"):
        server = Server("-engine", "zeros", env={"ZEROMQ_SOCK_TMP_DIR": folder})
        fails_with(f"cannot create a folder for sockets in {folder} (", server)
        assert "set ZEROMQ_SOCK_TMP_DIR to a folder that is writable" in server.log


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no socket files")
@pytest.mark.parametrize("variable", ["TMPDIR", "ZEROMQ_SOCK_TMP_DIR"])
def test_a_temporary_folder_with_a_long_path(variable: str, tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    server = Server("-engine", "zeros", env={variable: str(folder)})
    fails_with("set ZEROMQ_SOCK_TMP_DIR to a folder with a shorter path", server)


@pytest.mark.parametrize("token", ["", " \n"])
def test_an_empty_token_is_refused(token: str) -> None:
    options = ["-engine", "zeros", "-http_port", str(free_ports(1)[0])]
    fails_with(f"{TOKEN_VARIABLE} is set, but is not one line", Server(*options, env={TOKEN_VARIABLE: token}))


def test_space_around_a_token_is_no_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from bert_serving.server.config.server_config import ServerConfig

    config = ServerConfig.from_dict({"model_dir": str(TINY)})
    monkeypatch.setenv(TOKEN_VARIABLE, "secret\n")
    assert read_token(config) == "secret"
    for token in ("two\nlines", "a\rb", "a\x7fb", "\udcff", " "):
        monkeypatch.setenv(TOKEN_VARIABLE, token)
        with pytest.raises(ConfigError, match=f"{TOKEN_VARIABLE} is set, but is not one line .* printable"):
            read_token(config)
    monkeypatch.delenv(TOKEN_VARIABLE)
    assert read_token(config) is None


def test_a_token_in_a_file_can_be_sent(tmp_path: Path) -> None:
    from bert_serving.server.config.server_config import ServerConfig

    file = tmp_path / "token"
    config = ServerConfig.from_dict({"model_dir": str(TINY), "http_token_file": str(file)})
    file.write_bytes(b"\xef\xbb\xbfsecret\r\n")  # of an editor on Windows
    assert read_token(config) == "secret"
    for content in (b"two\nlines", b"a\x00b", b" \n"):
        file.write_bytes(content)
        with pytest.raises(ConfigError, match="must contain exactly one line with the token, of printable"):
            read_token(config)


def test_a_user_without_a_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.delenv("BERT_SERVING_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(CacheError, match="set -graph_tmp_dir, BERT_SERVING_CACHE or HOME"):
        default_cache_dir()


def test_a_cache_folder_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    server = Server("-graph_tmp_dir", str(tmp_path / "file" / "cache"), "-engine", "onnx")
    fails_with("set -graph_tmp_dir or BERT_SERVING_CACHE to another folder", server)


@pytest.mark.parametrize("name", [str(TINY / "bert_model.ckpt"), "./bert_model.ckpt", "../tiny/bert_model.ckpt"])
def test_the_name_of_the_checkpoint_may_be_a_path(name: str) -> None:
    with serving("-engine", "zeros", "-ckpt_name", name):
        pass


def test_a_vocabulary_with_a_byte_order_mark(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    others = VOCABULARY.replace("[UNK]\n", "")
    write("vocab.txt", f"\ufeff[UNK]\n{others}")(folder)
    with (
        serving("-engine", "zeros", "-show_tokens_to_client", model_dir=folder) as server,
        BertClient(port=server.port, port_out=server.port_out, timeout=60_000) as client,
    ):
        _, tokens = client.encode(["hello world"], show_tokens=True)
        assert tokens == [["[CLS]", "hello", "world", "[SEP]"]]


def fails_with(reason: str, server: Server) -> None:
    assert server.process.wait(60) == 3, server.log
    errors = [line for line in server.log.splitlines() if " E:" in line]
    assert len(errors) == 1, server.log
    assert reason in errors[0]
    assert "Traceback" not in server.log
