"""The relay itself: no byte earlier than it should be, none lost, none out of order."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks.relay import Line, Relay
from benchmarks.spu_parties import free_ports

pytestmark = pytest.mark.timeout(60)

_BYTES = 20_000_000


@contextlib.contextmanager
def _relayed() -> Iterator[tuple[Relay, Line, socket.socket]]:
    """A relay, its line, and the listening socket that the line ends at."""
    with socket.create_server(("127.0.0.1", 0)) as behind:
        (port,) = free_ports(1)
        line = Line("127.0.0.1", port, *behind.getsockname())
        with Relay([line]) as relay:
            yield relay, line, behind


def _echo(behind: socket.socket) -> None:
    connection, _ = behind.accept()
    with connection:
        while piece := connection.recv(1 << 16):
            connection.sendall(piece)


@pytest.mark.parametrize("round_trip_ms", [0.5, 1, 5])
def test_no_answer_comes_sooner_than_a_round_trip(round_trip_ms: float) -> None:
    with _relayed() as (relay, line, behind):
        threading.Thread(target=_echo, args=(behind,), daemon=True).start()
        relay.set_round_trip(round_trip_ms / 1000)
        with socket.create_connection((line.host, line.port)) as client:
            taken = []
            for _ in range(50):
                started = time.perf_counter()
                client.sendall(b"?")
                client.recv(1)
                taken.append(1000 * (time.perf_counter() - started))
        assert min(taken) >= round_trip_ms


def test_bytes_arrive_in_order_while_the_delay_changes_and_then_the_end_does() -> None:
    sent = np.random.default_rng(0).bytes(_BYTES)
    with _relayed() as (relay, line, behind):
        threading.Thread(target=_echo, args=(behind,), daemon=True).start()
        with socket.create_connection((line.host, line.port)) as client:

            def send() -> None:
                client.sendall(sent)
                client.shutdown(socket.SHUT_WR)

            threading.Thread(target=send, daemon=True).start()
            received = bytearray()
            for delay_s in (0.04, 0.0, 0.01, 0.0):
                relay.set_round_trip(delay_s)
                received += client.recv(1 << 20)
            while piece := client.recv(1 << 20):
                received += piece
        assert bytes(received) == sent
        assert relay.carried_bytes() == {line: 2 * _BYTES}


def test_who_cannot_be_passed_on_is_told() -> None:
    with _relayed() as (_, line, behind):
        behind.close()
        with (
            socket.create_connection((line.host, line.port)) as client,
            contextlib.suppress(ConnectionError),
        ):
            assert client.recv(1) == b""
