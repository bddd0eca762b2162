"""Flags of all commands from the command line, from variables and from a file."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_serving.client._cli.command_line import checked_format, fronts_of
from bert_serving.client._cli.command_line import get_parser as get_encode_parser
from bert_serving.client._fronts import Front
from bert_serving.client.flag_sources import PREFIX, SOURCES, command_args, flags_of, parse_command
from bert_serving.server import BertServer
from bert_serving.server.benchmark.options import get_benchmark_parser
from bert_serving.server.cli.calibrate import get_parser as get_calibrate_parser
from bert_serving.server.cli.drift import get_parser as get_drift_parser
from bert_serving.server.cli.join import get_parser as get_join_parser
from bert_serving.server.cli.start import start
from bert_serving.server.cli.terminate import get_shutdown_parser, stop
from bert_serving.server.cluster.cli import get_parser as get_ray_parser
from bert_serving.server.cluster.cli import machine_arguments
from bert_serving.server.config.command_line import get_args_parser, parse
from bert_serving.server.config.server_config import ServerConfig
from bert_serving.server.errors import ConfigError
from bert_serving.server.http.bearer_token import TOKEN_VARIABLE
from model_folders import TINY

ROOT = Path(__file__).resolve().parents[2]
#: Parser and arguments without flags, by command.
COMMANDS: dict[str, tuple[Callable[[], argparse.ArgumentParser], list[str]]] = {
    "start": (get_args_parser, []),
    "join": (get_join_parser, ["localhost:5557"]),
    "encode": (get_encode_parser, ["corpus.txt"]),
    "calibrate": (get_calibrate_parser, ["sample.txt"]),
    "drift": (get_drift_parser, ["sample.txt"]),
    "terminate": (get_shutdown_parser, []),
    "ray": (get_ray_parser, ["localhost:5557"]),
    "benchmark": (get_benchmark_parser, []),
}
PARSERS = {name: make() for name, (make, _) in COMMANDS.items()}
FLAGS = [(command, flag) for command, parser in PARSERS.items() for flag in flags_of(parser)]
#: Texts of which every flag accepts at least one.
CANDIDATES = ["1", "-1", "5", "20", "7000", "0.25", "3.5", "NONE", "on", "gpu7", "a b", "é", "-", "https://a.example"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_flag_without_one_letter_is_an_error(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser, spellings = PARSERS[command], PARSERS[command]._option_string_actions
    for flag in (name for name in spellings if len(name) > 4):
        middle = len(flag) // 2
        misspelt = flag[:middle] + flag[middle + 1 :]
        if not any(name.startswith(misspelt) for name in spellings):  # an abbreviation, as in 1.10.0
            with pytest.raises(SystemExit) as exit:
                parser.parse_args([*COMMANDS[command][1], misspelt, "x"])
            assert exit.value.code == 2
            assert f"unrecognized arguments: {misspelt}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argument", "hint"),
    [
        ("-otput", "; did you mean -output or -outputs?; the value tput of -o follows a space: -o tput"),
        ("-overwritte", "; did you mean -overwrite?; the value verwritte of -o follows a space: -o verwritte"),
        ("-oparts", "; the value parts of -o follows a space: -o parts"),
    ],
)
def test_a_misspelt_flag_is_no_value_of_a_short_one(
    argument: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        PARSERS["encode"].parse_args(["corpus.txt", argument])
    assert f"unrecognized arguments: {argument}{hint}\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("encode", "-outputs dense corpus.txt", "not one of dense, sparse, multi; FILE goes before -outputs"),
        ("encode", "-pooling_layer -1 corpus.txt", "invalid int value: 'corpus.txt'; FILE goes before -pooling_layer"),
        ("encode", "corpus.txt -outputs dense spars", "did you mean sparse?"),
        ("encode", "corpus.txt -outputs corpus.txt", "is not one of dense, sparse, multi"),
        ("join", "-device_map 0 front:5557", "; HOST:PORT goes before -device_map"),
    ],
)
def test_a_list_that_takes_what_follows_says_where_it_goes(
    command: str, arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        PARSERS[command].parse_args(arguments.split())
    assert f"{message}\n" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["out.npy", "/tmp/out", "../out", "out/", "-"])
def test_the_value_of_a_short_flag_may_follow_it(value: str) -> None:
    assert PARSERS["encode"].parse_args(["corpus.txt", f"-o{value}"]).output == value


def values_of(command: str, flag: str) -> list[list[str]]:
    """Returns what can follow a flag on the command line; an empty list stands for a switch."""
    parser, action = PARSERS[command], flags_of(PARSERS[command])[flag]
    if action.nargs == 0:
        return [[]]
    found = []
    for text in [*CANDIDATES, *(action.choices or ()), *getattr(action, "suggested", ())]:
        with contextlib.suppress(argparse.ArgumentError):
            value = parser._get_value(action, text)
            parser._check_value(action, value)
            found.append([text])
    if action.nargs == "+":
        found += [[*one, *other] for one in found[:2] for other in found[-2:]]
    return found


VALUES = {each: values_of(*each) for each in FLAGS}


def in_toml(action: argparse.Action, texts: list[str]) -> str:
    if action.nargs == 0:
        return "true"
    written = [
        text if re.fullmatch(r"-?\d+", text) and action.type not in (None, str) else repr(text) for text in texts
    ]
    return f"[{', '.join(written)}]" if action.nargs == "+" else written[0]


@pytest.fixture(autouse=True)
def environ(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of the commands, without variables of flags."""
    changed = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    monkeypatch.setattr(os, "environ", changed)
    return changed


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("config") / "bert.toml"


def parsed(command: str, *argv: str) -> dict[str, Any]:
    make, positional = COMMANDS[command]
    required = (
        ["-port", "5555"] if command == "terminate" else ["-o", "out"] if command in ("calibrate", "drift") else []
    )
    arguments = [*required, *argv, *(["--"] if argv and positional else []), *positional]
    args = vars(parse_command(make(), arguments).args)
    return {name: value for name, value in args.items() if name not in (SOURCES, "config_file")}


def test_every_command_with_flags_is_tried() -> None:
    text = "".join((ROOT / name / "pyproject.toml").read_text() for name in ("client", "server"))
    scripts = set(re.findall(r"^bert-serving-(\w+) = ", text, re.M))
    assert scripts - {"keygen"} == COMMANDS.keys(), "keygen has no flags"


def test_a_switch_that_a_variable_turns_off_is_not_passed_to_machines(environ: dict[str, str]) -> None:
    environ |= {"BERT_SERVING_CPU": "false", "BERT_SERVING_VERBOSE": "true", "BERT_SERVING_NUM_GPUS": "1"}
    args = parse_command(get_ray_parser(), ["localhost:5557"]).args
    assert machine_arguments(args) == ["localhost:5557", "-verbose"]


def test_every_flag_has_a_value_to_try() -> None:
    assert len(FLAGS) > 150
    assert [each for each, values in VALUES.items() if not values] == []


@settings(max_examples=50)
@given(data=st.data())
def test_a_value_is_the_same_from_each_source(data: st.DataObject, file: Path) -> None:
    command, flag = data.draw(st.sampled_from(FLAGS))
    same_from_each_source(command, flag, data.draw(st.sampled_from(VALUES[command, flag])), file)


@pytest.mark.parametrize(("command", "flag"), FLAGS)
def test_each_flag_has_all_sources(command: str, flag: str, file: Path) -> None:
    same_from_each_source(command, flag, VALUES[command, flag][-1], file)


def same_from_each_source(command: str, flag: str, texts: list[str], file: Path) -> None:
    if (command, flag) in (("terminate", "port"), ("calibrate", "output"), ("drift", "output")):
        return  # required, and tried by another test
    action = flags_of(PARSERS[command])[flag]
    spelled = next(text for text in action.option_strings if text.strip("-").replace("-", "_") == flag)
    is_hard = any(text.startswith("-") and not re.fullmatch(r"-\d+", text) for text in texts)
    line = [f"{spelled}={texts[0]}"] if is_hard else [spelled, *texts]
    expected = parsed(command, *line)
    with variables({PREFIX + flag.upper(): " ".join(texts) or "true"}):
        if action.nargs == "+" or not (isinstance(action, argparse._AppendAction) and " " in texts[0]):
            assert parsed(command) == expected
    file.write_text(f"{flag} = {in_toml(action, texts)}\n", encoding="utf-8")
    assert parsed(command, "-config_file", str(file)) == expected


@contextlib.contextmanager
def variables(changes: dict[str, str]) -> Iterator[None]:
    os.environ.update(changes)
    try:
        yield
    finally:
        for name in changes:
            del os.environ[name]


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(
    environ: dict[str, str], file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environ |= {"BERT_SERVING_PROMPT_NAME": "a\nb\udcff", "BERT_SERVING_MAX_SEQ_LEN": "30"}
    environ |= {"BERT_SERVING_NUM_WORKER": "3", "BERT_SERVING_POOLING_LAYER": "-1 -2"}
    file.write_text('max_seq_len = 40\nnum_worker = 4\nmax_batch_size = 7\nport_in = 6001\npooling_strategy = "NONE"')
    args = ["-model_dir", str(TINY), "-config_file", str(file), "-num_worker", "2", "-cased_tokenization"]
    assert start([*args, "--print-config"]) == 0
    shown = {line.split()[0]: line.split(maxsplit=1)[1] for line in capsys.readouterr().out.splitlines()}
    assert shown.keys() == flags_of(get_args_parser()).keys()
    for name, value, source in (
        ("num_worker", "2", "command line"),
        ("max_seq_len", "30", "variable BERT_SERVING_MAX_SEQ_LEN"),
        ("pooling_layer", "-1 -2", "variable BERT_SERVING_POOLING_LAYER"),
        ("max_batch_size", "7", f"file {file}"),
        ("port", "6001", f"file {file}"),
        ("pooling_strategy", "NONE", f"file {file}"),
        ("cased_tokenization", "true", "command line"),
        ("cpu", "false", "default"),
        ("prompt_name", r"'a\nb\udcff'", "variable BERT_SERVING_PROMPT_NAME"),
        ("http_port", "none", "default"),
    ):
        assert re.fullmatch(rf"{re.escape(value)} +{re.escape(source)}", shown[name]), shown[name]


def test_print_config_shows_what_the_model_folder_sets(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text(
        '[{"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"}, '
        '{"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]'
    )
    for source in TINY.iterdir():
        (tmp_path / source.name).symlink_to(source)
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(
        '{"word_embedding_dimension": 32, "pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}'
    )
    assert start(["-model_dir", str(tmp_path), "-print_config"]) == 0
    captured = capsys.readouterr()
    assert re.search(r"^pooling_strategy +CLS_TOKEN +model folder$", captured.out, re.M), captured
    assert start(["-model_dir", "/no/such", "-print_config"]) == 0
    captured = capsys.readouterr()
    assert re.search(r"^model_dir +/no/such +command line$", captured.out, re.M)
    assert "the settings of the model folder are missing: " in captured.err


def test_values_of_each_source_count_as_given(environ: dict[str, str], file: Path) -> None:
    environ["BERT_SERVING_POOLING_LAYER"] = "-2"
    environ["BERT_SERVING_CASED_TOKENIZATION"] = "off"
    file.write_text("max_seq_len = 25\n")
    args = parse_command(get_args_parser(), ["-model_dir", "m", "-config_file", str(file), "-port", "5555"]).args
    config = ServerConfig.from_args(args)
    assert config.given == {"model_dir", "pooling_layer", "max_seq_len", "port", "do_lower_case"}
    assert config.do_lower_case is True


@pytest.mark.parametrize(
    ("argv", "variable", "reason"),
    [
        ([], "NUM_WORKER=many", "'many' is not an integer, or auto; set a value of -num_worker, or unset the variable"),
        ([], "PORT=70000", "70000 is not a port: must be between 1 and 65535; set a value of -port"),
        ([], "DTYPE=fp8\nfp16", "BERT_SERVING_DTYPE='fp8\\nfp16': 'fp8\\nfp16' is not one of auto"),
        ([], "CPU=maybe", "a switch is true or false; set a value of -cpu"),
        ([], "DTYPE=fp8", "'fp8' is not one of auto, fp32"),
        ([], "POOLING_LAYER= ", "there is no value; set a value of -pooling_layer"),
        ([], "AUTH_KEYS=", "BERT_SERVING_AUTH_KEYS is set, but empty: unset it"),
        ([], "CONFIG_FILE=", "BERT_SERVING_CONFIG_FILE is set, but empty"),
        ([], "CONFIG_FILE=/no/such.toml", "/no/such.toml cannot be read (No such file or directory)"),
        (["PORT=5557"], "PORT_IN=5558", "BERT_SERVING_PORT_IN and BERT_SERVING_PORT set the same flag: unset one"),
    ],
)
def test_a_variable_without_a_usable_value_is_refused(
    argv: list[str], variable: str, reason: str, environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    for each in (*argv, variable):
        name, _, value = each.partition("=")
        environ[PREFIX + name] = value
    refused(lambda: start(["-model_dir", "m"]), reason, capsys)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("num_worker = 1\nmax_seq_length = 4", "line 2: max_seq_length is not a flag of bert-serving-start"),
        ("num_workers = 4", "; did you mean num_worker"),
        ("model-dir = 4", "; did you mean model_dir?"),
        ("\n\nport = 'http'", "line 3: port = 'http': 'http' is not an integer; set a value of -port, or remove"),
        ("port = 5555\nport_data = 5556", "line 2: port_data and port are the same flag: remove one line"),
        ("ckpt_name = 7", "a text must have quotes"),
        ("cpu = 'yes please'", "a switch is true or false"),
        ("port = true", "a value of this flag is no bool"),
        ("port = 1979-05-27", "a value of this flag is no date"),
        ("device_map = [[0]]", "a value of this flag is no list"),
        ("pooling_layer = []", "there is no value"),
        ("[server]\nport = 5555", "line 1: the file has a table, server"),
        ("server.port = 5555", "line 1: the file has a table, server"),
        ("port: 5555", "is not TOML: "),
        ("check = true", "check is not a flag of bert-serving-start that a file can set"),
        ("config_file = 'x'", "config_file is not a flag of bert-serving-start that a file can set"),
        ("port = 5556", "-port_out and -port are both 5556"),
        (f"a = {'[' * 5000}", "is not TOML: "),
        (f"port = {'1' * 5000}", "is not TOML: "),
        (f"port = 0x{'1' * 5000}", "port = (too long): a number has at most 64 bits"),
        ("num_worker = 0x10000000000000000", "num_worker = 18446744073709551616: a number has at most 64 bits"),
        ("drain_timeout = nan", "nan is not a duration: must be a finite number"),
        ("pooling_layer = '-1 -2'", "'-1 -2' is not an integer"),
    ],
)
def test_a_file_without_usable_values_is_refused(
    text: str, reason: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(text)
    refused(lambda: start(["-model_dir", "m", "-config_file", str(file)]), reason, capsys)


def test_a_file_that_is_no_text_is_refused(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_bytes(b"model_dir = '\xff'")
    refused(lambda: start(["-config_file", str(file)]), "is not UTF-8", capsys)
    refused(lambda: start(["-config_file", str(file.parent)]), "cannot be read (Is a directory)", capsys)
    refused(lambda: start(["-config_file", "/dev/zero"]), "/dev/zero has more than 1,048,576 bytes", capsys)


def test_a_file_of_an_editor_on_windows_is_read(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbfnum_worker = 2\r\nmodel_dir = 'm'\r\n")
    assert parsed("start", "-config_file", str(file))["num_worker"] == 2


@pytest.mark.parametrize(
    ("argv", "variables", "file_text", "level"),
    [
        (["-log_level", "quiet"], {"VERBOSE": "1"}, "", "quiet"),
        (["-log_level", "info"], {"VERBOSE": "1"}, "", "info"),
        (["-verbose"], {"LOG_LEVEL": "quiet"}, "", "debug"),
        ([], {"VERBOSE": "1"}, "log_level = 'quiet'", "debug"),
        ([], {"VERBOSE": "0"}, "log_level = 'quiet'", "quiet"),
        ([], {"LOG_LEVEL": "request"}, "verbose = true", "request"),
        ([], {}, "verbose = true", "debug"),
    ],
)
def test_the_better_source_of_verbose_and_log_level_wins(
    argv: list[str], variables: dict[str, str], file_text: str, level: str, file: Path, environ: dict[str, str]
) -> None:
    file.write_text(file_text)
    environ |= {PREFIX + name: value for name, value in variables.items()}
    config, command, _ = parse(["-model_dir", "m", "-config_file", str(file), *argv])
    assert config.log_settings == (level, "text")
    shown = {"verbose"} if config.verbose else {"log_level"}
    assert {"verbose", "log_level"} & command.sources.keys() >= shown


def test_a_contradiction_names_the_variable_and_the_file(
    file: Path, environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text("port_out = 6000")
    environ[PREFIX + "FP16"] = "1"
    command = ["-model_dir", "m", "-config_file", str(file)]
    refused(lambda: start([*command, "-dtype", "int8"]), "only one of them (-fp16: variable BERT_SERVING_FP16)", capsys)
    refused(lambda: start([*command, "-port", "6000"]), f"set different ports (-port_out: file {file})", capsys)


def refused(run: Callable[[], object], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        run()
    assert exit.value.code == 2
    written = capsys.readouterr().err
    assert reason in written
    assert written.count("\n") == 1 or written.endswith(" --help describes all flags\n")
    assert written.startswith("bert-serving-start: ")


@pytest.mark.parametrize("name", ["PORT", "HTTP_PORT", "JOIN_PORT"])
def test_service_links_of_kubernetes_are_ignored(name: str, environ: dict[str, str]) -> None:
    environ |= {
        f"{PREFIX}{name}": "tcp://10.96.0.7:5555",
        "BERT_SERVING_SERVICE_HOST": "10.96.0.7",
        "BERT_SERVING_SERVICE_PORT": "5555",
        "BERT_SERVING_PORT_5555_TCP": "tcp://10.96.0.7:5555",
        "BERT_SERVING_VERSION": "2.0.0",
    }
    found = parse_command(get_args_parser(), [])
    assert found.sources == {}
    (warning,) = found.warnings
    assert warning.startswith(f"{PREFIX}{name}=tcp://10.96.0.7:5555 is ignored: Kubernetes sets it for a Service")


def test_variables_of_other_meaning_belong_to_no_flag() -> None:
    """``BERT_SERVING_CACHE`` and others were there before the flags had variables."""
    taken = {PREFIX + flag.upper() for _, flag in FLAGS}
    text = "".join(path.read_text() for path in (ROOT / "docs" / "server.md", ROOT / "Makefile"))
    others = set(re.findall(r"BERT_SERVING_[A-Z_]+[A-Z]\b", text)) - taken
    assert {TOKEN_VARIABLE, "BERT_SERVING_CACHE", "BERT_SERVING_CPU_FEATURES", "BERT_SERVING_CONFIG_FILE"} <= others


def test_a_python_program_reads_no_variables(environ: dict[str, str], file: Path) -> None:
    environ["BERT_SERVING_MAX_SEQ_LEN"] = "30"
    assert BertServer(get_args_parser().parse_args(["-model_dir", "m"])).config.max_seq_len == 25
    assert BertServer({"model_dir": "m"}).config.max_seq_len == 25
    with pytest.raises(ConfigError, match="-config_file is for the commands"):
        BertServer(get_args_parser().parse_args(["-model_dir", "m", "-config_file", str(file)]))


def test_a_variable_gives_a_required_flag(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []
    module = importlib.import_module("bert_serving.server.cli.terminate")
    monkeypatch.setattr(module, "terminate", lambda *args: asked.append(args))
    with pytest.raises(SystemExit):
        stop([])
    assert "-port" in capsys.readouterr().err
    environ["BERT_SERVING_PORT"] = "6001"
    assert stop([]) == 0
    assert asked == [("localhost", 6001, 5000, None)]


def test_the_better_source_gives_the_address_of_a_server(environ: dict[str, str]) -> None:
    def front(*argv: str) -> Front:
        parser = get_encode_parser()
        args = command_args(parser, ["corpus.txt", *argv])
        checked_format(args, parser)
        return fronts_of(args)[0]

    environ["BERT_SERVING_PORT"] = "6001"
    assert front() == Front("localhost", 6001, 5556)
    assert front("-front", "gpu1") == Front("gpu1")
    environ["BERT_SERVING_FRONT"] = "gpu2"
    del environ["BERT_SERVING_PORT"]
    assert front() == Front("gpu2")
    assert front("-ip", "gpu3") == Front("gpu3", 5555, 5556)


def test_a_secret_key_is_not_printed(environ: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    environ["BERT_SERVING_SECRET_KEY"] = "JTKVSB%%)wK0E.X)V>+}o?pNmC{O&4W4b!Ni{Lh6"
    with pytest.raises(SystemExit) as exit:
        command_args(get_encode_parser(), ["corpus.txt", "-print_config"])
    assert exit.value.code == 0
    printed = capsys.readouterr().out
    assert re.search(r"^secret_key +\(hidden\) +variable BERT_SERVING_SECRET_KEY$", printed, re.M)
    assert "JTKV" not in printed
