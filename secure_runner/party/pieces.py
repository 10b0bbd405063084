"""Params in pieces: sharing takes many times the size of what is shared, so a large param goes part by part.

Shares are made element by element, in the order of the rows. Shares of consecutive pieces, one after the
other, are therefore a share of the whole, once SPU's own wire format says so: a ``ValueMetaProto`` with the
shape, and ``ValueChunkProto`` with the total number of bytes, an offset and the content.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from spu.libspu import Share

    from secure_runner.programs.manifest import TensorSpec

__all__ = ["PIECE_BYTES", "Assembly", "Piece", "in_groups", "joined"]

PIECE_BYTES = 8 << 20
"""Of params that are shared at once. Sharing them takes many times as much memory, and each time costs a few
messages between the parties."""

_SHAPE, _TOTAL, _OFFSET, _CONTENT = 4, 1, 2, 3
"""Numbers of fields in SPU's messages."""
_DIMS = 1


@dataclass(frozen=True)
class Piece:
    """Consecutive elements of a param; all of them, or a part, which is flat then."""

    name: str
    start: int
    stop: int
    count: int
    """Elements of the whole param."""

    @property
    def is_whole(self) -> bool:
        """Whether it is all of the param."""
        return self.stop - self.start == self.count

    @property
    def key(self) -> str:
        """A name for it."""
        return self.name if self.is_whole else f"{self.name}[{self.start}:{self.stop}]"


def in_groups(params: Sequence[TensorSpec], limit: int) -> list[list[Piece]]:
    """Pieces of all params in order, in groups of at most ``limit`` bytes; at least one group."""
    groups, room = list[list[Piece]]([[]]), limit
    for tensor in params:
        itemsize = np.dtype(tensor.dtype).itemsize
        for piece in _pieces(tensor.name, math.prod(tensor.with_batch(1)), limit // itemsize):
            size = (piece.stop - piece.start) * itemsize
            if size > room and groups[-1]:
                groups.append([])
                room = limit
            groups[-1].append(piece)
            room -= size
    return groups


def _pieces(name: str, elements: int, limit: int) -> Iterator[Piece]:
    for start in range(0, max(elements, 1), limit):
        stop = min(start + limit, elements)
        yield Piece(name, start, stop, elements)


class Assembly:
    """One party's shares of whole params, put together as their pieces come.

    Args:
        params: all of the program.
    """

    def __init__(self, params: Sequence[TensorSpec]) -> None:
        self._shapes = {tensor.name: tensor.with_batch(1) for tensor in params}
        self._groups = iter(in_groups(params, PIECE_BYTES))
        self._waiting: list[Share] = []

    def add(self, shares: Mapping[str, Share]) -> Iterator[tuple[str, Share]]:
        """Take the shares of the next group of pieces; gives name and share of each param they complete.

        Args:
            shares: by key of the piece.

        Raises:
            ValueError: it is not the next group.
        """
        group = next(self._groups, [])
        if {piece.key for piece in group} != shares.keys():
            raise ValueError("shares of other pieces of the params came than those that are next")
        for piece in group:
            self._waiting.append(shares[piece.key])
            if piece.stop == piece.count:
                yield piece.name, self._waiting.pop() if piece.is_whole else self._joined(piece.name)

    def _joined(self, name: str) -> Share:
        shares, self._waiting = self._waiting, []
        return joined(shares, self._shapes[name])


def joined(shares: list[Share], shape: Sequence[int]) -> Share:
    """One party's share of a whole param from its shares of all pieces, in order.

    Takes them out of the list, so that no piece is in memory longer than it has to be.
    """
    from spu.libspu import Share

    whole = Share()
    whole.meta = _with_shape(shares[0].meta, shape)
    total = sum(len(_field(chunk, _CONTENT)) for share in shares for chunk in share.share_chunks)
    chunks, offset = list[bytes](), 0
    shares.reverse()
    while shares:
        for chunk in shares.pop().share_chunks:
            content = _field(chunk, _CONTENT)
            head = _number(_TOTAL, total) + _number(_OFFSET, offset) + _head(_CONTENT, len(content))
            chunks.append(b"".join((head, content)))
            offset += len(content)
    whole.share_chunks = chunks
    return whole


def _with_shape(meta: bytes, shape: Sequence[int]) -> bytes:
    dims = b"".join(_varint(dim) for dim in shape)
    packed = _head(_DIMS, len(dims)) + dims
    others = b"".join(bytes(meta[start:stop]) for number, start, _, stop in _fields(meta) if number != _SHAPE)
    return others + _head(_SHAPE, len(packed)) + packed


def _field(message: bytes, wanted: int) -> memoryview:
    for number, _, content, stop in _fields(message):
        if number == wanted:
            return memoryview(message)[content:stop]
    return memoryview(b"")


def _fields(message: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Number, start, start of the content and end of each field: integers and byte strings, as SPU's are."""
    at = 0
    while at < len(message):
        start = at
        key, at = _read_varint(message, at)
        kind = key & 7
        if kind not in (0, 2):
            raise ValueError(f"a share of SPU's holds a field of kind {kind}: its format is another one")
        value, content = _read_varint(message, at)
        at = content + value if kind == 2 else content
        yield key >> 3, start, content, at


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _head(field: int, length: int) -> bytes:
    return _varint(field << 3 | 2) + _varint(length)
