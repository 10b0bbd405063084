"""One party of two, as a process: exchanges messages over an SPU link with TLS, says what the longest took.

Started by test_full_buffers.py with its rank, the number of exchanges, the seconds after which a message is
sent again, and the directory of the certificates.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from pathlib import Path

import spu

from secure_runner.party.link_identity import LinkIdentity
from secure_runner.party.run_watch import RunWatch

PORTS = (9001, 9002)
SMALLEST, LARGEST = 20_000, 400_000


def open_link(rank: int, send_timeout_s: float, directory: Path) -> spu.link.Context:
    """The link, each party reached where it listens."""
    desc = spu.link.Desc()
    desc.id = "exchanges"
    for party, port in enumerate(PORTS):
        desc.add_party(str(party), f"127.0.0.1:{port}")
    desc.recv_timeout_ms, desc.http_timeout_ms = 60_000, int(1000 * send_timeout_s)
    desc.connect_retry_times, desc.connect_retry_interval_ms = 100, 100
    desc.disable_msg_seq_id = True
    pems = ((directory / file).read_bytes() for file in ("party.pem", "party.key", "ca.pem"))
    LinkIdentity(desc.id, str(rank), ("0", "1"), {}, *pems).secure(desc)
    return spu.link.create_brpc(desc, rank)


def main() -> None:
    """Both parties draw the same sizes."""
    rank, exchanges = int(sys.argv[1]), int(sys.argv[2])
    peer, draw = 1 - rank, random.Random(3)
    link = open_link(rank, float(sys.argv[3]), Path(sys.argv[4]))
    rounds = link.spawn()
    watch = RunWatch(link.spawn(), [peer], limit_s=60)
    watch.meet()
    threading.Thread(target=watch.run, daemon=True).start()
    longest_s = 0.0
    for _ in range(exchanges):
        size, began = draw.randrange(SMALLEST, LARGEST), time.monotonic()
        watch.begins()
        rounds.send_async(peer, bytes(size))
        assert rounds.recv(peer) == bytes(size)
        watch.ends()
        watch.ran()
        longest_s = max(longest_s, time.monotonic() - began)
    sys.stdout.write(f"longest {longest_s}\n")
    sys.stdout.flush()
    # The peer may still wait for this party's answer to its last message.
    time.sleep(1)


main()
os._exit(0)
