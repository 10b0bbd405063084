"""A link whose sockets take less than a message holds: no message stays behind in a party's TLS buffer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.organisations import can_make_hosts

SCRIPT = Path(__file__).with_name("exchanging_party.py")
EXCHANGES = 60
SEND_TIMEOUT_S = 4
_NARROW = """
ip link set lo up mtu 1500
tc qdisc add dev lo root tbf rate 50mbit burst 32kb latency 400ms
sysctl -qw net.ipv4.tcp_wmem='4096 16384 32768'
exec "$@"
"""
"""A host of its own, with a slow line to itself and send buffers of 32 KB."""


@pytest.mark.skipif(not can_make_hosts(), reason="needs network namespaces")
@pytest.mark.timeout(300)
def test_messages_larger_than_the_sockets_buffer_arrive_without_being_sent_again(
    tls_cluster: Callable[..., Any],
) -> None:
    """Where nothing follows a message, a fifth of these stay until the sender's timeout sends them again."""
    made = tls_cluster("semi2k")
    made.issue("party", "127.0.0.1")
    given = f"{EXCHANGES} {SEND_TIMEOUT_S} {made.directory}"
    both = " & ".join(f"{sys.executable} {SCRIPT} {rank} {given}" for rank in (0, 1)) + " & wait"
    said = subprocess.run(
        ["unshare", "--net", "sh", "-ec", _NARROW, "sh", "sh", "-c", both],
        capture_output=True,
        text=True,
        timeout=250,
        check=True,
    ).stdout
    longest = [float(line.split()[1]) for line in said.splitlines() if line.startswith("longest")]
    assert len(longest) == 2, said
    assert max(longest) < SEND_TIMEOUT_S
