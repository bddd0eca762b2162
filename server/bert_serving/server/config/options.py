"""The table of all options of a server.

Names, aliases and defaults of options marked ``v1`` are those of bert-serving-server 1.10.0. The command line
(``command_line``), the status JSON and the tables in the docs are generated from this table.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from ..log import FORMATS, LEVELS
from ..model.pooling import PoolingStrategy
from .cors import origins
from .option import (
    DTYPES,
    ENGINES,
    MAX_CACHE_MB,
    TASKS,
    TOKEN_IDS,
    Option,
    at_least,
    count_or_auto,
    engine_name,
    fraction,
    integer,
    one_of,
    option,
    port_number,
    seconds,
    sequence_length,
)

_STRATEGIES = tuple(PoolingStrategy.selectable())


@dataclass(frozen=True, slots=True)
class Options:
    """Declares the options of a server as fields; ``docs/server.md`` explains each option."""

    # fmt: off
    model_dir: str = option(
        None, "folder of the BERT model: a Google checkpoint (bert_config.json, vocab.txt, bert_model.ckpt.*) or a "
        "Hugging Face folder (config.json, vocab.txt or tokenizer.json, model.safetensors). By default "
        "all-MiniLM-L6-v2, if its package is installed", metavar="DIR", v1=True, group="File Paths")
    model: tuple[str, ...] = option(
        (), "a further model with a name of its own, which requests choose, and with its options, as in "
        "rerank=/models/reranker,task=rerank,max_seq_len=512; may be repeated. Without NAME= the same as -model_dir",
        many=True, repeated=True, metavar="NAME=DIR[,OPTION=VALUE]")
    tuned_model_dir: str | None = option(
        None, "folder of a fine-tuned checkpoint; its weights replace those of -model_dir", metavar="DIR", v1=True)
    base: str | None = option(
        None, "folder of the base model of the adapter (LoRA of PEFT) in -model_dir; by default the folder that the "
        "adapter names", metavar="DIR")
    ckpt_name: str = option("bert_model.ckpt", "name of the checkpoint, as model.ckpt-343", metavar="NAME", v1=True)
    config_name: str = option("bert_config.json", "name of the model configuration in -model_dir", metavar="NAME",
                              v1=True)
    graph_tmp_dir: str | None = option(
        None, "folder for prepared models, which speed up the next start; by default in the user's cache folder",
        metavar="DIR", v1=True)

    task: str = option(
        "embed", "embed gives vectors; classify gives the scores of the labels of a classifier; rerank gives the score "
        "of a cross-encoder for each pair of texts", parse=one_of(*TASKS), metavar="TASK", completions=TASKS,
        group="BERT Parameters")
    max_seq_len: int | None = option(
        25, "longest sequence in tokens, including [CLS] and [SEP]; longer texts are truncated on the right and the "
        "reply reports it. NONE: the number of positions of the model; by default also the length of the model with "
        "-task classify and rerank", parse=sequence_length, metavar="N", v1=True)
    do_lower_case: bool = option(
        True, "do not lower-case texts or strip accents: for cased models", parse=None, switch_to=False,
        flag="cased_tokenization", v1=True)
    pooling_layer: tuple[int, ...] = option(
        (-2,), "encoder layers to pool: -1 is the last; several layers are concatenated", parse=integer, many=True,
        metavar="L", v1=True)
    pooling_strategy: PoolingStrategy = option(  # noqa: RUF009 (option() declares a field)
        PoolingStrategy.REDUCE_MEAN, f"conversion of token vectors to a sentence vector: {', '.join(_STRATEGIES)}",
        parse=PoolingStrategy.from_string, metavar="NAME", completions=_STRATEGIES, v1=True)
    normalize: str = option(
        "auto", "unit vectors: auto as the model folder says, on or off", parse=one_of("auto", "on", "off"),
        metavar="WHEN", completions=("auto", "on", "off"))
    dimensions: int | None = option(
        None, "cut vectors to their first N dimensions, and normalize unit vectors again", parse=at_least(1),
        metavar="N")
    prompt_name: str | None = option(
        None, "prompt of the model folder to put before each text; by default that of the folder, if it names one",
        metavar="NAME")
    mask_cls_sep: bool = option(False, "mask [CLS] and [SEP] in attention and pooling", parse=None, v1=True)
    no_special_token: bool = option(False, "add no [CLS] and [SEP] to tokenized texts", parse=None, v1=True)
    show_tokens_to_client: bool = option(False, "send the tokens of each text with its vector", parse=None, v1=True)
    no_position_embeddings: bool = option(False, "add no position embeddings", parse=None, v1=True)

    host: str = option("*", "address to bind: * is all, of IPv6 too, 127.0.0.1 this machine only", metavar="ADDR",
                       group="Serving Configs")
    auth_keys: str | None = option(
        None, "folder of keys from bert-serving-keygen: encrypts both ports and admits only clients whose key is in "
        "the folder", metavar="KEYS")
    port: int = option(5555, "port for requests", parse=port_number, aliases=("port_in", "port_data"), v1=True)
    port_out: int = option(5556, "port for results", parse=port_number, aliases=("port_result",), v1=True)
    http_port: int | None = option(
        None, "port of the HTTP server, disabled by default; needs bert-serving-server[http]", parse=port_number,
        v1=True)
    http_max_connect: int = option(
        10, "concurrent HTTP requests; beside them as many small ones, at least 64", parse=at_least(1), metavar="N",
        v1=True)
    http_max_connections: int = option(10000, "largest number of open HTTP connections", parse=at_least(1), metavar="N")
    http_keep_alive: float = option(120.0, "seconds to keep an HTTP connection without a request", parse=seconds,
                                    metavar="S")
    http_read_timeout: float = option(
        30.0, "longest time in seconds for the head of an HTTP request to arrive, and for its body", parse=seconds,
        metavar="S")
    cors: str = option(
        "*", "origins that may call HTTP from a browser, separated by commas; https://*.example.com matches all hosts "
        "below example.com", parse=origins, metavar="ORIGIN", v1=True)
    http_token_file: str | None = option(
        None, "file with the bearer token that HTTP requests must send; by default the variable "
        "BERT_SERVING_HTTP_TOKEN", metavar="FILE")
    http_keys: str | None = option(
        None, "file of names with their bearer tokens, weights and limits, in place of -http_token_file; the weights "
        "and limits also apply to clients whose key of -auth_keys has such a name", metavar="FILE")
    http_token_ids: str = option(
        "framed", "token ids on /v1: framed accepts rows that begin and end with the special tokens of this model, "
        "any accepts every row, off accepts none", parse=one_of(*TOKEN_IDS), metavar="WHICH", completions=TOKEN_IDS)
    http_jobs: str | None = option(
        None, "folder for batch jobs: HTTP clients upload files of requests to /v1/files, and the server computes them "
        "in the background. By default it runs none", metavar="DIR")
    http_jobs_bytes: int = option(10 * 2**30, "largest size of all files of batch jobs, in bytes", parse=at_least(1),
                                  metavar="N")
    http_jobs_age: int = option(2_592_000, "seconds to keep files of batch jobs, and batches that have ended",
                                parse=at_least(1), metavar="S")
    num_worker: int | str = option(
        1, "number of worker processes; each runs the model on one device. auto: one for each GPU, or about one for "
        "each 4 cores of the CPU, bound to them. With -join_port also 0: machines compute", parse=count_or_auto(0),
        metavar="N", v1=True)
    num_tokenizer: int | str = option(
        0, "processes that tokenize; 0: the ventilator does. auto: 0 below 8 cores, else one more while the ventilator "
        "is over 70 % busy, up to a quarter of the cores", parse=count_or_auto(0), metavar="N")
    max_batch_size: int = option(256, "largest number of sequences in a batch; larger requests are split, small ones "
                                 "joined", parse=at_least(1), metavar="N", v1=True)
    max_batch_tokens: int | None = option(
        None, "largest number of tokens in a batch, including padding; by default 65536 on a GPU, measured at startup "
        "on a CPU", parse=at_least(16), metavar="N")
    priority_batch_size: int = option(
        16, "largest number of sequences in a request with priority over larger requests", parse=at_least(0),
        metavar="N", v1=True)
    engine: str = option(
        "auto", "inference engine: auto, tensorflow, torch or onnx; measure times the installed ones on this CPU, "
        "keeps the result and takes the fastest; zeros returns zeros without inference, to measure the overhead; "
        "package.module is a custom engine", parse=engine_name, metavar="NAME", completions=ENGINES)
    dtype: str = option(
        "fp32", "arithmetic precision: fp32, bf16, fp16, int8, or auto for the fastest one that suits the device. "
        "Pooling is always in fp32", parse=one_of(*DTYPES), metavar="NAME", completions=DTYPES)
    cpu: bool = option(False, "run on the CPU even if there is a GPU", parse=None, v1=True)
    deterministic: bool = option(
        False, "a text has the same vector to the bit, whatever shares its batch, at each start of one version on one "
        "machine: engine onnx in fp32 or int8; others are refused", parse=None)
    xla: bool = option(
        False, "compile with XLA at startup for a few shapes, to which batches are padded (engine tensorflow); "
        "faster for short sequences in fp32 on a CPU", parse=None, v1=True)
    fp16: bool = option(False, "compute in half precision if the device supports it, and send float16 vectors",
                        parse=None, v1=True)
    gpu_memory_fraction: float = option(0.5, "fraction of GPU memory for each worker", parse=fraction, metavar="F",
                                        v1=True)
    device_map: tuple[int, ...] = option(
        (), "numbers of the GPUs to use, assigned to workers in round-robin order; -1 is the CPU", parse=integer,
        many=True, metavar="GPU", v1=True)
    threads: int | None = option(
        None, "CPU threads per worker; by default the number of cores, or the quota of the container, divided by the "
        "number of workers", parse=at_least(1), metavar="N")
    prefetch_size: int = option(
        10, "ignored, accepted for compatibility; a worker always holds one running and one queued batch",
        parse=at_least(0), metavar="N", v1=True)
    fixed_embed_length: bool = option(
        False, "with -pooling_strategy NONE, pad every result to the number of positions of the model", parse=None,
        v1=True)

    join_port: int | None = option(
        None, "port on which other machines join with bert-serving-join; by default none can join", parse=port_number,
        group="Joining Machines")
    join_port_out: int | None = option(
        None, "port for the results of joined machines; by default the one after -join_port", parse=port_number)
    join_host: str = option(
        "127.0.0.1", "address to bind for machines that join; one that other machines reach needs -join_keys",
        metavar="ADDR")
    join_keys: str | None = option(
        None, "folder of keys from bert-serving-keygen, other than that of -auth_keys: encrypts both join ports and "
        "admits only machines whose key is in the folder", metavar="KEYS")
    join_timeout: float = option(
        10.0, "seconds of silence after which a joined machine is lost and others compute its batches", parse=seconds,
        metavar="S")

    max_message_bytes: int = option(512 * 2**20, "largest frame of a request in bytes", parse=at_least(1024),
                                    metavar="N", group="Limits and Waiting")
    max_request_size: int = option(1_000_000, "largest number of texts in a request", parse=at_least(1), metavar="N")
    max_text_length: int = option(1_000_000, "largest number of characters in a text", parse=at_least(1), metavar="N")
    max_queue_tokens: int = option(
        20_000_000, "largest number of queued tokens; above it requests wait as text, large ones from three quarters "
        "of it", parse=at_least(1), metavar="N")
    queue_memory: int | None = option(
        None, "largest memory of waiting requests in bytes; above it the server stops reading requests until the queue "
        "shrinks. By default 2 GiB, or a quarter of the memory of the machine or container if that is less",
        parse=at_least(1), metavar="BYTES")
    http_max_body: int = option(64 * 2**20, "largest body of an HTTP request, and largest vectors of a response, in "
                                "bytes", parse=at_least(1024), metavar="N")
    http_timeout: float = option(120.0, "seconds without a result from any worker after which HTTP returns 504",
                                 parse=seconds, metavar="S")
    result_memory: int | None = option(
        None, "largest memory of results in bytes: those under assembly, those that wait for slow clients, and those "
        "that ZeroMQ sends; also the largest size of one result. By default 2 GiB, or a quarter of the memory of the "
        "machine or container if that is less", parse=at_least(1), metavar="BYTES")
    cache_mb: int = option(
        0, "memory in MiB for vectors of earlier texts: a repeated text is answered without the model. 0: no cache",
        parse=at_least(0, MAX_CACHE_MB), metavar="N")
    result_ttl: float = option(1800.0, "seconds to keep a result that its client does not read", parse=seconds,
                               metavar="S")
    absent_ttl: float = option(60.0, "seconds to keep results and queued requests of a disconnected client",
                               parse=seconds, metavar="S")
    idle_unload: float = option(
        0.0, "seconds without a request after which a model frees its memory: its workers end, and the next request "
        "waits until they have started again. Joined machines keep theirs. 0: never", parse=seconds, metavar="S")
    worker_timeout: float = option(300.0, "longest duration of one batch in seconds; then the worker is replaced",
                                   parse=seconds, metavar="S")
    heartbeat_timeout: float = option(20.0, "seconds without a heartbeat after which a process is replaced",
                                      parse=seconds, metavar="S")
    start_timeout: float = option(600.0, "longest time to load the model, in seconds", parse=seconds, metavar="S")
    drain_timeout: float = option(60.0, "seconds to finish accepted requests at shutdown", parse=seconds, metavar="S")

    quantization_ranges: str | None = option(
        None, "file from bert-serving-calibrate: the ranges of the embedding types int8 and uint8. By default "
        "quantization_ranges.json in the model folder, if it exists", metavar="FILE", group="Other")
    drift_reference: str | None = option(
        None, "file from bert-serving-drift for a sample of texts: /metrics and the status report the drift of texts "
        "and vectors from it", metavar="FILE")
    drift_window: int = option(10_000, "size of the drift window: the last N to 2 N texts", parse=at_least(1),
                               metavar="N")
    verbose: bool = option(False, "the same as -log_level debug", parse=None, v1=True)
    log_level: str = option(
        "info", "quiet logs warnings and errors only; info also starts and stops; request also each request; debug "
        "also tokens, input_ids and input_mask of each text, and all options", parse=one_of(*LEVELS),
        metavar="LEVEL", completions=tuple(LEVELS))
    log_format: str = option(
        "text", "json writes each line of the log as an object with time, level, part and message",
        parse=one_of(*FORMATS), metavar="FORMAT", completions=FORMATS)
    # fmt: on


OPTIONS: dict[str, Option] = {
    each.name: Option(each.name, each.default, **each.metadata) for each in fields(Options) if each.metadata
}

#: Options with paths.
PATHS = (
    "model_dir", "tuned_model_dir", "base", "graph_tmp_dir", "auth_keys", "join_keys", "http_token_file", "http_keys",
    "http_jobs", "drift_reference", "quantization_ranges",
)  # fmt: skip


def option_groups() -> dict[str, list[Option]]:
    """Returns the options by title of their section in ``--help``."""
    groups: dict[str, list[Option]] = {}
    title = ""
    for each in OPTIONS.values():
        title = each.group or title
        groups.setdefault(title, []).append(each)
    return groups
