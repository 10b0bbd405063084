"""What a party makes of messages that ask for preparation: it tells nothing, and is no more than it takes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from spu.libspu import Share

from secure_runner.frames import FrameError, Kind, decode
from secure_runner.party.about import AboutBatch
from secure_runner.party.loop import Batch
from secure_runner.party.peer_loop import PeerLoop
from secure_runner.party.shares import share_message
from secure_runner.party.turns import MOST_PREPARING_RUNS

SIZE = 8


class Runtime:
    """A resident program whose runs and messages are kept. Its one executable has two runtimes, or one."""

    def __init__(self, runtimes: int = 2) -> None:
        nowhere = SimpleNamespace(link=SimpleNamespace(port=0))
        timeouts = SimpleNamespace(run_timeout_s=60.0)
        cluster = SimpleNamespace(addresses=lambda *_, **__: nowhere, tls=None, timeouts=timeouts)
        self.spec = SimpleNamespace(
            settings=SimpleNamespace(cluster=cluster),
            parties=("a", "b"),
            rank=0,
            lane=0,
            slot=0,
            rank_of=lambda _: 1,
            ask_before_runs=False,
        )
        self.manifest = SimpleNamespace(private_inputs=["x"])
        self.rungs = {SIZE: SimpleNamespace(runtimes=tuple(object() for _ in range(runtimes)))}
        self.inputs = SimpleNamespace(recv=lambda _: self.coming.pop(0))
        self.nudges = SimpleNamespace()
        self.outputs = SimpleNamespace(send_async=lambda _, message: self.sent.append(message))
        self.pipe = SimpleNamespace(send=lambda frame: self.told.append(frame))
        self.coming: list[bytes] = []
        self.sent: list[bytes] = []
        self.told: list[Any] = []
        self.ran: list[tuple[int, bool]] = []

    def run_batch(
        self, batch_size: int, shares: list[Share], turn: int, *, behind: bool = False
    ) -> tuple[list[Share], float]:
        self.ran.append((turn, behind))
        return [Share()], 0.01


def asks(kind: Kind, run_id: int = 0, turn: int = 1) -> bytes:
    return share_message(kind, run_id, [Share()], AboutBatch(SIZE).as_meta() | {"turn": turn})


def loop(runtime: Runtime) -> PeerLoop:
    return PeerLoop(runtime)  # type: ignore[arg-type]


def take(here: PeerLoop, runtime: Runtime, message: bytes) -> Batch:
    """What the loop does with one message."""
    runtime.coming.append(message)
    kind, batch = here.receive()
    here.prepare(batch) if kind is Kind.PREPARE else here.compute(batch)
    return batch


def test_a_preparation_sends_no_share_and_is_told_of_as_no_ones_batch() -> None:
    runtime = Runtime()
    here = loop(runtime)
    batch = take(here, runtime, asks(Kind.PREPARE))
    here.preparation_of(batch).wait()
    assert runtime.ran == [(1, True)]
    assert not runtime.sent
    assert [(frame.kind, frame.id, frame.meta["rows"]) for frame in runtime.told] == [(Kind.RESULT, 0, 0)]


def test_a_batch_waits_for_the_preparation_of_its_runtime_and_is_answered() -> None:
    runtime = Runtime()
    here = loop(runtime)
    take(here, runtime, asks(Kind.PREPARE))
    take(here, runtime, asks(Kind.RUN, run_id=1))
    assert runtime.ran == [(1, True), (1, False)]
    (message,) = runtime.sent
    assert decode(message).id == 1


def test_there_is_no_more_preparation_than_a_runtime_needs() -> None:
    runtime = Runtime()
    here = loop(runtime)
    for _ in range(2):
        for _ in range(MOST_PREPARING_RUNS):
            take(here, runtime, asks(Kind.PREPARE))
        with pytest.raises(FrameError, match="more preparation"):
            take(here, runtime, asks(Kind.PREPARE))
        # Another runtime of the same executable has a count of its own; a batch begins it anew.
        take(here, runtime, asks(Kind.RUN, run_id=here.last_run_id + 1, turn=0))
        take(here, runtime, asks(Kind.RUN, run_id=here.last_run_id + 1))


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (asks(Kind.PREPARE, run_id=1), "more preparation"),
        (asks(Kind.PREPARE, turn=2), "a runtime that its batch does not have"),
        (asks(Kind.RUN, run_id=1, turn=-1), "a runtime that its batch does not have"),
        (share_message(Kind.RUN, 1, [Share()], AboutBatch(SIZE).as_meta()), "a runtime that its batch"),
        (share_message(Kind.RESULT, 1, [Share()], AboutBatch(SIZE).as_meta()), "asks for nothing"),
    ],
)
def test_what_else_is_asked_is_refused(message: bytes, reason: str) -> None:
    runtime = Runtime()
    with pytest.raises(FrameError, match=reason):
        take(loop(runtime), runtime, message)


def test_a_runtime_without_turns_is_never_prepared() -> None:
    runtime = Runtime(runtimes=1)
    with pytest.raises(FrameError, match="more preparation"):
        take(loop(runtime), runtime, asks(Kind.PREPARE, turn=0))
