"""Every option of the server, in one table: flag, default, check and the words of ``--help``.

The parser, the frozen :class:`~.config.ServerConfig`, the status JSON and the table in the docs are all made from it.
Names, aliases and defaults are those of bert-serving-server 1.10.0 (marked ``v1``); the rest is new.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..model.pooling import PoolingStrategy
from .cors import cors


@dataclass(frozen=True, slots=True)
class Option:
    """One option. ``parse`` turns the words of the command line into a value, or raises ``ValueError``."""

    name: str
    default: Any
    help: str
    parse: Callable[[str], Any] | None = str  # None: a switch
    aliases: tuple[str, ...] = ()
    many: bool = False  # takes one or more values
    switch_to: bool = True  # value that a switch sets
    flag: str = ""  # if the flag is not called as the field
    metavar: str = ""
    words: tuple[str, ...] = ()  # values that a shell completes
    v1: bool = False

    @property
    def flags(self) -> list[str]:
        """``-model_dir``, its 1.10.0 aliases, and the GNU spelling ``--model-dir``."""
        names = [self.flag or self.name, *self.aliases]
        spellings = [f"-{name}" for name in names]
        for name in names:
            spellings += [f"--{name}"] if "_" not in name else [f"--{name.replace('_', '-')}", f"--{name}"]
        return spellings


def at_least(least: int) -> Callable[[str], int]:
    """A parser for whole numbers that are not below ``least``."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ValueError(f"{text!r} is not a whole number") from None
        if value < least:
            raise ValueError(f"{value} is too small, it must be at least {least}")
        return value

    return parse


def port(text: str) -> int:
    value = at_least(1)(text)
    if value > 65535:
        raise ValueError(f"{value} is not a port, ports go from 1 to 65535")
    return value


def fraction(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise ValueError(f"{value} is not a share, it must be above 0 and at most 1")
    return value


def seconds(text: str) -> float:
    value = float(text)
    if value < 0:
        raise ValueError(f"{value} is negative, it must be a number of seconds")
    return value


def max_seq_len(text: str) -> int | None:
    if text.upper() in ("NONE", "NULL"):
        return None
    try:
        value = int(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither a whole number nor NONE") from None
    if value <= 3:
        raise ValueError(f"{value} is too small: a sequence holds [CLS], [SEP] and words, so at least 4, or NONE")
    return value


def one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(f"{text!r} is not one of {', '.join(choices)}")
        return text.lower()

    return parse


#: What ``-engine`` and ``-dtype`` take.
ENGINES = ("auto", "tensorflow", "torch", "onnx", "zeros")
DTYPES = ("auto", "fp32", "bf16", "fp16", "int8")


def engine(text: str) -> str:
    """The name of an engine of ours, or the import path of another one."""
    return text if "." in text else one_of(*ENGINES)(text)


# fmt: off
GROUPS: dict[str, list[Option]] = {
    "File Paths": [
        Option("model_dir", None, "folder of the BERT model: a Google checkpoint (bert_config.json, vocab.txt, "
               "bert_model.ckpt.*) or a Hugging Face folder (config.json, vocab.txt or tokenizer.json, "
               "model.safetensors). Without it the embedded default model is served, where it is installed",
               metavar="DIR", v1=True),
        Option("tuned_model_dir", None, "folder of a fine-tuned checkpoint, whose weights override those of -model_dir",
               metavar="DIR", v1=True),
        Option("ckpt_name", "bert_model.ckpt", "name of the checkpoint, as model.ckpt-343", metavar="NAME", v1=True),
        Option("config_name", "bert_config.json", "name of the model's JSON config in -model_dir", metavar="NAME",
               v1=True),
        Option("graph_tmp_dir", None, "folder for the prepared model; by default a cache of your user account that "
               "makes the next start fast", metavar="DIR", v1=True),
    ],
    "BERT Parameters": [
        Option("max_seq_len", 25, "most tokens of a sequence, [CLS] and [SEP] among them; longer texts are cut on the "
               "right and the client is told. NONE: as many as the model has positions", parse=max_seq_len,
               metavar="N", v1=True),
        Option("do_lower_case", True, "do not lower-case and strip accents: for cased models", parse=None,
               switch_to=False, flag="cased_tokenization", v1=True),
        Option("pooling_layer", (-2,), "encoder layer(s) that are pooled: -1 is the last; several are concatenated",
               parse=int, many=True, metavar="L", v1=True),
        Option("pooling_strategy", PoolingStrategy.REDUCE_MEAN, "how token vectors become one sentence vector: "
               + ", ".join(PoolingStrategy.__members__), parse=PoolingStrategy.from_string, metavar="NAME",
               words=tuple(PoolingStrategy.__members__), v1=True),
        Option("mask_cls_sep", False, "mask [CLS] and [SEP]: no attention to them and no share in the pooling",
               parse=None, v1=True),
        Option("no_special_token", False, "add no [CLS] and [SEP] to texts that arrive tokenized", parse=None, v1=True),
        Option("show_tokens_to_client", False, "send the tokens of each text back with the vectors", parse=None,
               v1=True),
        Option("no_position_embeddings", False, "add no position embeddings", parse=None, v1=True),
    ],
    "Serving Configs": [
        Option("host", "*", "address to bind: * is every interface, 127.0.0.1 this machine only", metavar="ADDR"),
        Option("auth_keys", None, "folder of keys, made by bert-serving-keygen: encrypts both ports, and lets in only "
               "clients whose key is in it", metavar="KEYS"),
        Option("port", 5555, "port for requests", parse=port, aliases=("port_in", "port_data"), v1=True),
        Option("port_out", 5556, "port for results", parse=port, aliases=("port_result",), v1=True),
        Option("http_port", None, "port for HTTP; no HTTP without it. Needs bert-serving-server[http]", parse=port,
               v1=True),
        Option("http_max_connect", 10, "HTTP requests worked on at a time; small ones: at least 64", parse=at_least(1),
           metavar="N", v1=True),
        Option("cors", "*", "origins that browsers may call HTTP from, separated by commas; https://*.example.com are "
               "all hosts below example.com", parse=cors, metavar="ORIGIN", v1=True),
        Option("http_token_file", None, "file with the token that HTTP callers must send as Authorization: Bearer; "
               "without it, the variable BERT_SERVING_HTTP_TOKEN is read", metavar="FILE"),
        Option("num_worker", 1, "worker processes; each runs the model on one device", parse=at_least(1), metavar="N",
               v1=True),
        Option("max_batch_size", 256, "most sequences in a batch; larger requests are split, small ones joined",
               parse=at_least(1), metavar="N", v1=True),
        Option("max_batch_tokens", None, "most tokens in a batch, padding counted; by default measured at start",
               parse=at_least(16), metavar="N"),
        Option("priority_batch_size", 16, "requests of at most so many sequences jump ahead of larger ones",
               parse=at_least(0), metavar="N", v1=True),
        Option("engine", "auto", "what computes: auto, tensorflow, torch or onnx; zeros computes nothing, to "
               "measure all the rest; package.module is an engine of your own", parse=engine, metavar="NAME",
               words=ENGINES),
        Option("dtype", "fp32", "precision of the arithmetic: fp32, bf16, fp16, int8, or auto for the fastest that "
               "suits the device. Pooling is always in fp32", parse=one_of(*DTYPES), metavar="NAME",
               words=DTYPES),
        Option("cpu", False, "run on the CPU even where there is a GPU", parse=None, v1=True),
        Option("xla", False, "compile with XLA, at the start, for a few shapes to which batches are padded (engine "
               "tensorflow); it gains on short sequences in fp32 on a CPU", parse=None, v1=True),
        Option("fp16", False, "compute in half precision where the device can, and send float16 vectors", parse=None,
               v1=True),
        Option("gpu_memory_fraction", 0.5, "share of a GPU's memory that each worker may take", parse=fraction,
               metavar="F", v1=True),
        Option("device_map", (), "GPUs to use, by number, one per worker in turn; -1 is the CPU", parse=int, many=True,
               metavar="GPU", v1=True),
        Option("threads", None, "CPU threads of each worker; by default the cores shared out among the workers",
               parse=at_least(1), metavar="N"),
        Option("prefetch_size", 10, "accepted for old command lines; a worker always has one batch in hand and one "
               "waiting", parse=at_least(0), metavar="N", v1=True),
        Option("fixed_embed_length", False, "with NONE pooling, make every result as long as the model's positions",
               parse=None, v1=True),
    ],
    "Limits and Waiting": [
        Option("max_message_bytes", 512 * 2**20, "largest frame taken from a client, in bytes", parse=at_least(1024),
               metavar="N"),
        Option("max_request_size", 1_000_000, "most texts in one request", parse=at_least(1), metavar="N"),
        Option("max_text_length", 1_000_000, "most characters in one text", parse=at_least(1), metavar="N"),
        Option("max_queue_tokens", 20_000_000, "tokens that may wait; beyond it the server stops reading, and clients "
               "wait", parse=at_least(1), metavar="N"),
        Option("http_max_body", 64 * 2**20, "bytes of the largest HTTP request, and of the vectors in an answer",
               parse=at_least(1024), metavar="N"),
        Option("http_timeout", 120.0, "seconds without any answer of the workers after which HTTP says 504",
               parse=seconds, metavar="S"),
        Option("result_memory", 2 * 2**30, "bytes of results kept for clients that read slowly, and of one answer",
               parse=at_least(1),
               metavar="N"),
        Option("result_ttl", 600.0, "seconds that a result waits for its reader", parse=seconds, metavar="S"),
        Option("absent_ttl", 60.0, "seconds that a client may be away before its results and its waiting requests "
               "are let go", parse=seconds, metavar="S"),
        Option("worker_timeout", 300.0, "seconds one batch may take before its worker is replaced", parse=seconds,
               metavar="S"),
        Option("heartbeat_timeout", 20.0, "seconds of silence before a process counts as hung and is replaced",
               parse=seconds, metavar="S"),
        Option("start_timeout", 600.0, "seconds that loading the model may take", parse=seconds, metavar="S"),
        Option("drain_timeout", 60.0, "seconds to finish accepted requests when the server is told to stop",
               parse=seconds, metavar="S"),
    ],
    "Other": [
        Option("drift_reference", None, "file made by bert-serving-drift from a sample of texts: /metrics and the "
               "status tell how far texts and vectors have moved away from it", metavar="FILE"),
        Option("drift_window", 10_000, "the drift looks back on the last N to 2 N texts",
               parse=at_least(1), metavar="N"),
        Option("verbose", False, "log every request, and the tokens, input_ids and input_mask of each text",
               parse=None, v1=True),
    ],
}
# fmt: on

OPTIONS: dict[str, Option] = {option.name: option for group in GROUPS.values() for option in group}
