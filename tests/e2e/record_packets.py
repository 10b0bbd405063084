"""Write every Ethernet frame that this host's interfaces see to a file, until SIGTERM. Needs root."""

from __future__ import annotations

import signal
import socket
import struct
import sys

_ALL_PROTOCOLS = 0x0003
_LARGEST = 1 << 18


def main(path: str) -> None:
    """Record to ``path``: for each frame its length (u32, big-endian) and its bytes."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS))
    packets.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 26)
    with open(path, "wb") as file:
        sys.stdout.write("recording\n")
        sys.stdout.flush()
        while True:
            frame = packets.recv(_LARGEST)
            file.write(struct.pack(">I", len(frame)) + frame)


if __name__ == "__main__":
    main(sys.argv[1])
