"""The dealer's answers as bytes on the wire: HTTP/1.1 around SPU's frames.

A frame is one code byte, the length of its content as little-endian int64, and the content. SPU's client
wants exactly the corrections' total size, each correction in frames of its own, and error texts not empty.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from typing import Any

import orjson

from secure_runner.dealer.ring import Array
from secure_runner.dealer.steps import Step

__all__ = ["Code", "correction_frames", "data_response", "error_response", "frames_bytes", "json_response"]

_FRAME = struct.Struct("<Bq")
_REASONS = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    408: "Request Timeout",
    409: "Conflict",
    413: "Content Too Large",
    429: "Too Many Requests",
}


class Code(enum.IntEnum):
    """First byte of a frame."""

    DATA = 0
    REFUSED = 1
    SEED_NOT_DECRYPTED = 2


def correction_frames(corrections: Sequence[Array]) -> bytes:
    """Corrections in SPU's frames, one frame each."""
    frames: list[bytes | memoryview] = []
    for correction in corrections:
        content = correction.reshape(-1).data.cast("B")
        frames += [_FRAME.pack(Code.DATA, content.nbytes), content]
    return b"".join(frames)


def frames_bytes(step: Step) -> int:
    """Bytes of a step's corrections in their frames."""
    return sum(_FRAME.size + length for length in step.output_bytes)


def data_response(content: bytes | memoryview) -> bytes:
    """A whole answer with this content, such as frames."""
    return _response(200, "application/octet-stream", content)


def error_response(code: Code, message: str) -> bytes:
    """A whole answer that makes SPU's client raise with this message."""
    text = (message or "refused").encode()
    return data_response(_FRAME.pack(code, len(text)) + text)


def json_response(status: int, value: Any) -> bytes:
    """A whole JSON answer, for everything that is not SPU's client."""
    return _response(status, "application/json", orjson.dumps(value))


def _response(status: int, content_type: str, body: bytes | memoryview) -> bytes:
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\ncontent-type: {content_type}\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return b"".join((head.encode(), body))
