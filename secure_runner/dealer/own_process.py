"""Whether the other end of a loopback connection is this very process."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["is_own_connection"]

_LOOPBACK = f"{int.from_bytes(bytes([127, 0, 0, 1]), sys.byteorder):08X}"
"""127.0.0.1 as Linux's table writes it."""


def is_own_connection(peer_port: int, own_port: int) -> bool:
    """Whether a connection from a port of 127.0.0.1 to another one comes from this process.

    From Linux's table of connections, which has the number of each end's socket.
    """
    ends = [f"{_LOOPBACK}:{port:04X}" for port in (peer_port, own_port)]
    rows = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()]
    sockets = {f"socket:[{row[9]}]" for row in rows if row[1:3] == ends}
    return any(_target(link) in sockets for link in Path("/proc/self/fd").iterdir())


def _target(link: Path) -> str:
    """What a link leads to; nothing where it has gone meanwhile."""
    try:
        return os.readlink(link)
    except OSError:
        return ""
