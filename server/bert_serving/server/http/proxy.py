"""The process that speaks HTTP, as the supervisor starts it."""

from __future__ import annotations

from ..errors import StartError
from ..ipc.process_context import ProcessContext


def run(link: ProcessContext) -> None:
    """Serves HTTP until told to stop.

    Raises:
        StartError: the libraries for HTTP are not installed, or the port is taken.
        ConfigError: the token cannot be read.
    """
    try:
        from .process import serve
    except ModuleNotFoundError as error:
        raise StartError(
            f"-http_port needs the library {error.name!r}; get it with: pip install 'bert-serving-server[http]'"
        ) from None
    serve(link)
