"""Look into a process: are these bytes anywhere in its memory? Linux; the same user or root."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path

__all__ = ["holds"]

_REGION = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) rw")
_CHUNK_BYTES = 1 << 24
_LONGEST_NEEDLE = 256


def holds(pid: int, needles: Sequence[bytes]) -> bool:
    """Whether the writable memory of a process holds any of ``needles``.

    Raises:
        PermissionError: the kernel does not let this process look.
    """
    pattern = re.compile(b"|".join(re.escape(needle) for needle in needles))
    regions = [
        (int(match[1], 16), int(match[2], 16))
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines()
        if (match := _REGION.match(line))
    ]
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        return any(_region_holds(memory, start, end, pattern) for start, end in regions)


def _region_holds(memory: io.FileIO, start: int, end: int, pattern: re.Pattern[bytes]) -> bool:
    carried = b""
    for at in range(start, end, _CHUNK_BYTES):
        try:
            memory.seek(at)
            chunk = memory.read(min(_CHUNK_BYTES, end - at)) or b""
        except OSError:
            return False
        if pattern.search(carried + chunk):
            return True
        carried = chunk[-_LONGEST_NEEDLE:]
    return False
