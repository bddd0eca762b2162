"""The options frame of a request: lone surrogates are removed, as those of texts are."""

from __future__ import annotations

import pytest

from bert_serving.server.ventilator.request_options import decode_options


def test_lone_surrogates_are_removed() -> None:
    for frame in (b'{"prompt": "a\\ud800b ", "truncate": false}', '{"prompt": "a\ud800b ", "truncate": false}'):
        options = decode_options(frame if isinstance(frame, bytes) else frame.encode("utf-8", "surrogatepass"))
        assert (options.prompt, options.truncate) == ("ab ", False)
        assert options.key
    options = decode_options(b'{"outputs": ["dense\\ud800", "\\udc00"], "truncate": false}')
    assert options.outputs == ["dense", ""]
    assert options.key


@pytest.mark.parametrize(
    "frame", [b'["\\ud800"]', b'{"\\ud800": 1}', b'{"prompt": ["\\ud800"]}', b"{", b"", b"\xff", b'"\\ud800"']
)
def test_other_frames_are_refused(frame: bytes) -> None:
    with pytest.raises(ValueError, match="known options: timing"):
        decode_options(frame)
