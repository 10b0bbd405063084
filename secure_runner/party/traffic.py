"""How many bytes a party's SPU link has carried, from the kernel's own counts (Linux, TCP_INFO).

SPU keeps counts of its own but shows them to C++ alone. The kernel's are of the TCP streams: TLS is in them,
headers of packets are not.
"""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass

__all__ = ["LinkTraffic"]

# struct tcp_info of linux/tcp.h: 8 one-byte and 24 four-byte fields, then u64 pacing_rate, max_pacing_rate,
# bytes_acked, bytes_received.
_TCP_INFO_BYTES = 136
_BYTES_AT = 120
_BYTES = struct.Struct("=QQ")


@dataclass(frozen=True)
class _Stream:
    own: tuple[str, int]
    peer: tuple[str, int]


class LinkTraffic:
    """Adds up what passed through the link's connections, those that are closed by now included.

    Args:
        link_ports: of all parties, in this session; a connection with one at either end is the link's.
    """

    def __init__(self, link_ports: set[int]) -> None:
        self._ports = link_ports
        self._seen: dict[_Stream, tuple[int, int]] = {}

    def read(self) -> tuple[int, int]:
        """Bytes sent and received since the session began."""
        for name in os.listdir("/proc/self/fd"):
            found = self._look_at(int(name))
            if found is not None:
                stream, counts = found
                self._seen[stream] = counts
        sent, received = zip(*self._seen.values(), strict=True) if self._seen else ((), ())
        return sum(sent), sum(received)

    def _look_at(self, descriptor: int) -> tuple[_Stream, tuple[int, int]] | None:
        try:
            if not os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:"):
                return None
            with socket.socket(fileno=os.dup(descriptor)) as sock:
                if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
                    return None
                own, peer = sock.getsockname()[:2], sock.getpeername()[:2]
                if not {own[1], peer[1]} & self._ports:
                    return None
                info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        except OSError:
            # Listening, closed meanwhile, or nobody's business.
            return None
        if len(info) < _TCP_INFO_BYTES:
            return None
        sent, received = _BYTES.unpack_from(info, _BYTES_AT)
        return _Stream(own, peer), (sent, received)
