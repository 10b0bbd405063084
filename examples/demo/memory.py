"""Look into a process: which bytes are anywhere in its memory? Linux; the same user or root."""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

__all__ = ["found"]

_REGION = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) rw")
_CHUNK_BYTES = 1 << 24
_LONGEST_NEEDLE = 256
_COMMON = (b"\x00\x00", b"\xff\xff")


def found(pid: int, wanted: Mapping[str, Sequence[bytes]]) -> set[str]:
    """Which of ``wanted`` are in the writable memory of a process.

    Args:
        pid: the process; it may go on running.
        wanted: name → needles of 4 to 256 bytes, of which one is enough.

    Raises:
        PermissionError: the kernel does not let this process look.
    """
    search = _Search(wanted)
    regions = [
        (int(match[1], 16), int(match[2], 16))
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines()
        if (match := _REGION.match(line))
    ]
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for start, end in regions:
            _look_into(memory, start, end, search)
    return search.found


class _Search:
    """Many needles in one pass: tables of two pairs of their bytes, then a comparison."""

    def __init__(self, wanted: Mapping[str, Sequence[bytes]]) -> None:
        self.found: set[str] = set()
        self._by_pair: dict[int, list[tuple[int, bytes, str]]] = defaultdict(list)
        self._first, self._second = np.zeros(1 << 16, np.bool_), np.zeros(1 << 16, np.bool_)
        for name, needle in ((name, needle) for name, needles in wanted.items() for needle in needles):
            # Memory is full of zeros: the pair to look for is one that is rarer.
            at = next((i for i in range(len(needle) - 3) if needle[i : i + 2] not in _COMMON), 0)
            first, second = np.frombuffer(needle, "<u2", count=2, offset=at)
            self._first[first] = self._second[second] = True
            self._by_pair[int(first)].append((at, needle, name))

    def look_at(self, data: bytes) -> None:
        """Take note of what is in ``data``."""
        for offset in (0, 1):
            pairs = np.frombuffer(data, "<u2", count=max(0, len(data) - offset) // 2, offset=offset)
            for index in np.flatnonzero(self._first[pairs[:-1]] & self._second[pairs[1:]]):
                position = 2 * int(index) + offset
                for at, needle, name in self._by_pair[int(pairs[index])]:
                    if name not in self.found and position >= at and data.startswith(needle, position - at):
                        self.found.add(name)


def _look_into(memory: io.FileIO, start: int, end: int, search: _Search) -> None:
    carried = b""
    for at in range(start, end, _CHUNK_BYTES):
        try:
            memory.seek(at)
            chunk = memory.read(min(_CHUNK_BYTES, end - at)) or b""
        except OSError:
            return
        data = carried + chunk
        search.look_at(data)
        carried = data[-_LONGEST_NEEDLE:]
