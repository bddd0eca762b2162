"""A server that is asked to stop while it reads its model ends at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from bert_serving.server.model.digest import Stopped, sha256_of, stoppable
from bert_serving.server.supervisor.supervisor import BertServer
from servers import ENGINE, TINY, free_ports


def test_the_digest_of_a_file_ends_within_a_block(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(bytes(3 << 20))
    blocks = iter([False, False, True])
    with pytest.raises(Stopped), stoppable(lambda: next(blocks)):
        sha256_of(tmp_path / "weights")
    assert list(blocks) == [], "it read three blocks"
    assert sha256_of(tmp_path / "weights"), "outside of the block, nothing ends it"


def test_a_stop_before_the_digests_is_a_clean_end(tmp_path: Path) -> None:
    port, port_out = free_ports()
    options = {"model_dir": str(TINY), "port": port, "port_out": port_out, "engine": ENGINE, "cpu": True}
    server = BertServer({**options, "graph_tmp_dir": str(tmp_path)})  # a cache that knows no digest
    server.stop()
    server.run()
    assert (server.exit_code, server.failure, server.children) == (0, None, {})
