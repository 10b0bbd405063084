"""Binary frames: a fixed header, a small JSON object, and arrays or bytes as they are. No pickle.

Used between a runner and its party process (a socket pair) and for shares on the SPU link. A frame is::

    magic u16 | kind u16 | meta_len u32 | id u64 | part_count u32 | part_len u64 * part_count | meta | parts

All integers are little-endian. Parts are opaque bytes; ``meta`` says what they are.
"""

from __future__ import annotations

import enum
import functools
import math
import operator
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import orjson

__all__ = [
    "LENGTH",
    "Frame",
    "FrameError",
    "Kind",
    "array_parts",
    "arrays_of",
    "check_length",
    "decode",
    "encode",
    "encode_for_stream",
    "read_frame",
]

_MAGIC = 0x5352
_HEAD = struct.Struct("<HHIQI")
LENGTH = struct.Struct("<Q")
"""What stands before each frame on a stream: its length in bytes."""
_DTYPE = re.compile(r"[<>|][biufcUS][0-9]{1,9}")
_MAX_META_BYTES = 1 << 20
_MAX_PARTS = 1 << 16
_MAX_FRAME_BYTES = 2 << 30

Array = npt.NDArray[Any]
Bytes = bytes | memoryview


class FrameError(Exception):
    """Bytes that are not a frame: wrong magic, unknown kind, impossible lengths, truncated."""


class Kind(enum.IntEnum):
    """What a frame is for."""

    WARM = 1
    """Party to runner: imports are done; a session can start."""
    START = 2
    """Runner to party: the session (``meta`` is a SessionSpec)."""
    READY = 3
    """Party to runner: params are shared and the program has run once."""
    RUN = 4
    """Runner to the data owner's party: a batch; on the link: input shares."""
    RESULT = 5
    """Data owner's party to runner: the batch's answer; on the link: output shares."""
    FAILED = 6
    """Party to runner: the session is over; ``meta`` has a code, never a message from a library."""
    PING = 7
    PONG = 8
    KEEPALIVE = 9
    """On the link while idle, so that firewalls keep the connection."""
    ADMIT = 10
    """Model owner's party to runner: may this batch run? And the runner's answer."""
    PREPARE = 11
    """On the link: input shares of a run for its own sake, which uses up what is left of a stock."""


_KINDS: Mapping[int, Kind] = {int(kind): kind for kind in Kind}


@dataclass(frozen=True)
class Frame:
    """One frame. ``parts`` are views into what was read: copy what must outlive it."""

    kind: Kind
    id: int = 0
    meta: Mapping[str, Any] = field(default_factory=dict)
    parts: Sequence[Bytes] = ()


class ByteReader(Protocol):
    """What :func:`read_frame` reads from: an asyncio stream reader, for example."""

    async def readexactly(self, n: int) -> bytes:
        """Exactly ``n`` bytes; raises ``asyncio.IncompleteReadError`` at the end of the stream."""
        ...


def encode(frame: Frame) -> list[Bytes]:
    """The frame as a list of buffers, ready for ``writelines``; arrays are not copied."""
    meta = orjson.dumps(frame.meta) if frame.meta else b""
    lengths = struct.pack(f"<{len(frame.parts)}Q", *(_size(part) for part in frame.parts))
    head = _HEAD.pack(_MAGIC, int(frame.kind), len(meta), frame.id, len(frame.parts))
    return [head + lengths + meta, *frame.parts]


def decode(data: Bytes | bytearray) -> Frame:
    """Read one frame that fills ``data`` exactly.

    Raises:
        FrameError: it does not.
    """
    view = memoryview(data)
    kind, meta_len, id_, part_count = _parse_head(view)
    body_at = _HEAD.size + LENGTH.size * part_count
    if len(view) < body_at + meta_len:
        raise FrameError(f"a frame of {len(view)} bytes is shorter than its header says")
    lengths = struct.unpack_from(f"<{part_count}Q", view, _HEAD.size)
    if body_at + meta_len + sum(lengths) != len(view):
        raise FrameError(f"a frame of {len(view)} bytes does not have the length that its header says")
    return _body(kind, id_, view[body_at:], meta_len, lengths)


def encode_for_stream(frame: Frame) -> list[Bytes]:
    """The frame with its length before it, as frames travel on a stream."""
    buffers = encode(frame)
    return [LENGTH.pack(sum(_size(buffer) for buffer in buffers)), *buffers]


def check_length(prefix: Bytes | bytearray) -> int:
    """The length that stands before a frame.

    Raises:
        FrameError: it is over the limit; nothing of that size is read.
    """
    (length,) = LENGTH.unpack(prefix)
    if length > _MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {length} bytes is over the limit of {_MAX_FRAME_BYTES}")
    return int(length)


async def read_frame(reader: ByteReader) -> Frame:
    """Read the next frame of a stream.

    Raises:
        FrameError: the stream holds something else.
        asyncio.IncompleteReadError: the stream ended.
    """
    length = check_length(await reader.readexactly(LENGTH.size))
    return decode(await reader.readexactly(length))


def array_parts(arrays: Mapping[str, Array]) -> tuple[list[dict[str, Any]], list[Bytes]]:
    """Describe arrays for ``meta`` and give their bytes as parts (C order; no copy where they have it)."""
    specs: list[dict[str, Any]] = []
    parts: list[Bytes] = []
    for name, array in arrays.items():
        contiguous = np.ascontiguousarray(array)
        specs.append({"name": name, "dtype": contiguous.dtype.str, "shape": list(array.shape)})
        parts.append(contiguous.reshape(-1).data.cast("B"))
    return specs, parts


def arrays_of(specs: Sequence[Mapping[str, Any]], parts: Sequence[Bytes]) -> dict[str, Array]:
    """Rebuild what :func:`array_parts` took apart. Read-only views into the frame.

    Raises:
        FrameError: a description does not fit its bytes, or asks for Python objects.
    """
    described = len(specs) if isinstance(specs, Sequence) else 0
    if described != len(parts):
        raise FrameError(f"{described} arrays are described, {len(parts)} came")
    return dict(_array_of(spec, part) for spec, part in zip(specs, parts, strict=True))


def _array_of(spec: Mapping[str, Any], part: Bytes) -> tuple[str, Array]:
    try:
        name, dtype = str(spec["name"]), _dtype_of(str(spec["dtype"]))
        shape = tuple(map(operator.index, spec["shape"]))
        if shape and min(shape) < 0:
            raise FrameError("an array has no negative dimensions")
    except (KeyError, TypeError, ValueError):
        raise FrameError("an array's description has no name, numpy dtype and shape") from None
    if math.prod(shape) * dtype.itemsize != _size(part):
        raise FrameError("an array's bytes do not fit its dtype and shape")
    try:
        return name, np.frombuffer(part, dtype=dtype).reshape(shape)
    except ValueError:
        raise FrameError("an array of this dtype and shape cannot be framed") from None


@functools.lru_cache(maxsize=64)
def _dtype_of(name: str) -> np.dtype[Any]:
    # numpy takes much more for a dtype, Python objects and records among it.
    if not _DTYPE.fullmatch(name):
        raise FrameError("only arrays of numbers, truth values or strings can be framed")
    return np.dtype(name)


def _size(part: Bytes) -> int:
    return part.nbytes if isinstance(part, memoryview) else len(part)


def _parse_head(view: memoryview) -> tuple[Kind, int, int, int]:
    if len(view) < _HEAD.size:
        raise FrameError(f"{len(view)} bytes are too short for a frame's header")
    magic, kind, meta_len, id_, part_count = _HEAD.unpack_from(view)
    if magic != _MAGIC:
        raise FrameError("not a frame: its first two bytes are wrong")
    if meta_len > _MAX_META_BYTES or part_count > _MAX_PARTS:
        raise FrameError(f"frame with {meta_len} bytes of meta and {part_count} parts is over the limits")
    known = _KINDS.get(kind)
    if known is None:
        raise FrameError(f"frame kind {kind} is not known")
    return known, meta_len, id_, part_count


def _body(kind: Kind, id_: int, view: memoryview, meta_len: int, lengths: Sequence[int]) -> Frame:
    try:
        meta = orjson.loads(view[:meta_len]) if meta_len else {}
    except ValueError:
        raise FrameError("a frame's meta is not JSON") from None
    if not isinstance(meta, dict):
        raise FrameError("a frame's meta is not a JSON object")
    parts, at = [], meta_len
    for length in lengths:
        parts.append(view[at : at + length])
        at += length
    return Frame(kind, id_, meta, parts)
