"""What a client of 1.10.0 sends and expects, for servers with options of later versions."""

from __future__ import annotations

import json

import numpy as np

from raw_client import RawClient
from servers import Server

V1_CONFIG_KEYS = """
client num_process server_current_time device_map num_concurrent_socket ckpt_name config_name cors cpu
do_lower_case fixed_embed_length fp16 gpu_memory_fraction graph_tmp_dir http_max_connect http_port mask_cls_sep
max_batch_size max_seq_len model_dir no_position_embeddings no_special_token num_worker pooling_layer
pooling_strategy port port_out prefetch_size priority_batch_size show_tokens_to_client tuned_model_dir verbose
xla tensorflow_version python_version server_version pyzmq_version zmq_version server_start_time
""".split()  # noqa: SIM905, more readable than a list
V1_SPACED_KEYS = ["ventilator -> worker", "worker -> sink", "ventilator <-> sink"]
V1_STATISTIC = """
num_data_request num_total_seq num_sys_request num_total_request num_total_client num_active_client
""".split()  # noqa: SIM905, more readable than a list
V1_GROUPS = ["request_per_client", "size_per_request", "last_two_interval", "request_per_second"]


def assert_serves_version_1(server: Server, width: int = 32, keys: tuple[bytes, bytes, bytes] | None = None) -> None:
    """Sends the frames of 1.10.0 and reads the replies as its client does.

    Args:
        width: number of dimensions of the vectors.
        keys: CURVE keys: that of the server, and the public and the secret one of the client.
    """
    with RawClient(server, b"of version 1", keys) as client:
        client.send(b"SHOW_CONFIG", number=7)
        topic, config, number = client.receive()
        values = json.loads(config)
        assert topic.startswith(client.identity), "ZeroMQ compares prefixes"
        assert number == b"7"
        assert not {*V1_CONFIG_KEYS, *V1_SPACED_KEYS} - set(values)
        assert values["server_version"] == "1.10.0"
        for texts in (["hello world", "good day", "hello world ||| good day"], [["hello", "world"], ["good", "day"]]):
            client.push.send_multipart([client.identity, json.dumps(texts).encode(), b"8", b"%d" % len(texts)])
            topic, info, vectors, number = client.receive()
            reply = json.loads(info)
            assert topic.startswith(client.identity)
            assert (number, reply["dtype"]) == (b"8", "float32")
            assert np.frombuffer(vectors, reply["dtype"]).reshape(reply["shape"]).shape == (len(texts), width)
            assert reply["tokens"] == "" or len(reply["tokens"]) == len(texts)
        client.send(b"SHOW_STATUS", number=9)
        statistic = json.loads(client.receive()[1])["statistic"]
        assert not {*V1_STATISTIC} - set(statistic)
