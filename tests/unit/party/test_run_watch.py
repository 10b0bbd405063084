"""The watch over a party's runs: what it sends and when, what stays unread, and what it ends."""

from __future__ import annotations

import queue
import threading
import time
from collections import defaultdict

import pytest

from secure_runner.errors import UnavailableError
from secure_runner.party import run_watch
from secure_runner.party.run_watch import RunWatch


class Wires:
    """Channels between parties, kept in memory."""

    def __init__(self) -> None:
        self.queues: dict[tuple[int, int], queue.Queue[bytes]] = defaultdict(queue.Queue)
        self.sent: dict[int, int] = defaultdict(int)

    def of(self, rank: int) -> Channel:
        return Channel(self, rank)


class Channel:
    def __init__(self, wires: Wires, rank: int) -> None:
        self.wires, self.rank = wires, rank

    def send_async(self, rank: int, message: bytes) -> None:
        self.wires.sent[self.rank] += 1
        self.wires.queues[self.rank, rank].put(message)

    def recv(self, rank: int) -> bytes:
        return self.wires.queues[rank, self.rank].get(timeout=10)


class OverError(Exception):
    """Ends a watch that has slept often enough."""


class Clock:
    """Time that passes in sleeps alone; after ``sleeps`` of them the watch is over."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, watch: RunWatch, sleeps: int) -> None:
        self.now_s, self.left, self.watch = 0.0, sleeps, watch
        self.slept: list[float] = []
        monkeypatch.setattr(run_watch.time, "sleep", self.pause)
        monkeypatch.setattr(run_watch.time, "monotonic", lambda: self.now_s)
        monkeypatch.setattr(watch._begun, "wait", self.pause)

    def pause(self, seconds: float) -> None:
        if not self.left:
            raise OverError
        self.left -= 1
        self.now_s += seconds
        self.slept.append(seconds)

    def run_out(self) -> None:
        """Watch for as many sleeps as there are."""
        with pytest.raises(OverError):
            self.watch.run()


@pytest.fixture
def alone() -> tuple[RunWatch, Wires]:
    """One party's watch; its peers send nothing."""
    wires = Wires()
    return RunWatch(wires.of(0), [1, 2], limit_s=1.0), wires


def test_every_peer_is_sent_something_twenty_times_a_second_while_a_batch_is_under_way(
    alone, monkeypatch
) -> None:
    watch, wires = alone
    clock = Clock(monkeypatch, watch, sleeps=19)
    watch.begins()
    clock.run_out()
    assert clock.slept == [0.05] * 19
    assert [wires.queues[0, peer].qsize() for peer in (1, 2)] == [19, 19]


def test_a_batch_that_takes_too_long_is_ended_and_the_one_before_it_does_not_count(
    alone, monkeypatch
) -> None:
    watch, _ = alone
    clock = Clock(monkeypatch, watch, sleeps=1000)
    watch.begins()
    watch.begins()
    clock.now_s = 0.9
    watch.ends()
    with pytest.raises(UnavailableError, match=r"run_timeout_s, 1 s"):
        watch.run()
    assert 1.9 < clock.now_s < 2.1


def test_nothing_is_ended_while_nothing_is_under_way(alone, monkeypatch) -> None:
    watch, _ = alone
    clock = Clock(monkeypatch, watch, sleeps=5)
    watch.begins()
    watch.ends()
    clock.run_out()
    assert clock.slept == [0.05, 0.1, 0.2, 0.4, 0.8], "each pause is twice the one before"


def test_a_link_without_tls_is_sent_nothing_but_its_runs_are_ended(monkeypatch) -> None:
    wires = Wires()
    watch = RunWatch(wires.of(0), [], limit_s=1.0)
    watch.meet()
    clock = Clock(monkeypatch, watch, sleeps=1000)
    watch.begins()
    for _ in range(100):
        watch.ran()
    with pytest.raises(UnavailableError):
        watch.run()
    assert clock.slept == [0.5] * 3
    assert not wires.sent


@pytest.mark.timeout(60)
def test_it_rests_until_the_next_batch(monkeypatch) -> None:
    """Real threads and time: once at rest it sends nothing more, and a batch wakes it."""
    monkeypatch.setattr(run_watch, "_INTERVAL_S", 0.01)
    monkeypatch.setattr(run_watch, "_REST_S", 0.02)
    monkeypatch.setattr(run_watch, "_LAST_S", 0.1)
    wires = Wires()
    watch = RunWatch(wires.of(0), [1], limit_s=60)
    threading.Thread(target=watch.run, daemon=True).start()

    def rests() -> bool:
        before = wires.sent[0]
        time.sleep(0.5)
        return wires.sent[0] == before

    while not rests():
        pass
    for _ in range(3):
        before = wires.sent[0]
        watch.begins()
        while wires.sent[0] < before + 5:
            time.sleep(0.01)
        watch.ends()
    while not rests():
        pass


@pytest.mark.timeout(60)
def test_what_is_unread_stays_little_however_many_batches_there_are() -> None:
    """Three parties, whose runs begin together, each with a nudge of every party to all others."""
    wires, parties = Wires(), 3
    together = threading.Barrier(parties)
    most: list[int] = []

    def party(rank: int) -> None:
        watch = RunWatch(wires.of(rank), [peer for peer in range(parties) if peer != rank], limit_s=60)
        watch.meet()
        for _ in range(400):
            together.wait(10)
            watch._send(b"")
            watch.ran()
            most.append(max(q.qsize() for q in list(wires.queues.values())))

    threads = [threading.Thread(target=party, args=(rank,)) for rank in range(parties)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert wires.sent[0] > 2 * 400
    assert len(most) == parties * 400
    assert max(most) < 60
