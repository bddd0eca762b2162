"""Implements the command ``bert-serving-benchmark``."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from bert_serving.client.command_parser import describe_error

from ..config.server_config import ServerConfig
from ..errors import ConfigError, ServingError
from ..model.config import ModelConfig
from ..model.errors import ModelError
from . import experiments, plot
from .corpus import SentenceSource
from .load import Repeats
from .options import read_args
from .runner import Plan, run

#: Number of the ``-num_repeat`` requests that warm up and are not measured.
WARM_UP = 2
EXIT_OK, EXIT_FAILED, EXIT_INTERRUPTED = 0, 1, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark of a command line.

    Returns the exit code: 0, 1 if a setting failed, 2 for a wrong command line, 130 after Ctrl-C.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    args = read_args(arguments)
    try:
        config = ServerConfig.from_args(args)
        model = config.read_model()
        plan = make_plan(args, config, shlex.join(["bert-serving-benchmark", *arguments]))
    except (ServingError, ModelError, OSError, ValueError) as error:
        print(f"bert-serving-benchmark: {describe_error(error)}", file=sys.stderr)
        return 2
    return run_until_interrupted(experiments.from_args(args, config, model), model, plan)


def make_plan(args: argparse.Namespace, config: ServerConfig, command: str) -> Plan:
    """Returns the measurement plan of a parsed command line.

    Raises:
        OSError, ValueError: a text file cannot be used, or there are several models.
    """
    if config.model:
        raise ConfigError(
            f"-model {config.model[0]}: this command measures one model, without others beside it: name its folder "
            "with -model_dir and its options with flags, and measure the others in further runs"
        )
    warm_up = min(WARM_UP, args.num_repeat - 1)
    repeats = Repeats(args.num_repeat - warm_up, warm_up, args.min_seconds, args.max_seconds)
    source = SentenceSource.from_files(args.texts, args.client_vocab_file, args.seed)
    return Plan(source, repeats, args.seed, args.wait_till_ready, Path(args.out), command, config.public())


def run_until_interrupted(experiments_to_run: list[experiments.Experiment], model: ModelConfig, plan: Plan) -> int:
    """Runs experiments; on Ctrl-C and SIGTERM, stops the server and returns its exit code."""

    def on_sigterm(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, on_sigterm)
    try:
        complete = run(experiments_to_run, model, plan)
    except KeyboardInterrupt:
        print(f"\ninterrupted; the results so far are in {plan.out}", file=sys.stderr)
        return EXIT_INTERRUPTED
    hint = "" if plot.can_plot() else "; to get plots: pip install bert-serving-server[plot]"
    print(f"written to {plan.out}{hint}", file=sys.stderr)
    return EXIT_OK if complete else EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
