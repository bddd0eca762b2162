"""Options of a client behind ``output_fmt``, for the signatures of the constructors."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import TypedDict

    class Options(TypedDict, total=False):
        """Options of a client; see `BertClient`."""

        show_server_config: bool
        identity: str | bytes | None
        check_version: bool
        check_length: bool
        check_token_info: bool
        ignore_all_checks: bool
        timeout: float
        connect_timeout: float
        server_key: str | None
        public_key: str | None
        secret_key: str | None
        vector_space: str | None
        model: str | None
