"""A party process that replaces its first message of a batch to another party, or stops half-way.

``deviating_party.py NAME FD DIRECTORY WAY ...``: in the first of these ways in which no process has yet. It
takes the way when it deviates and not before, since its session may end for other reasons; after the last
one it is honest.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from secure_runner.frames import Kind, decode
from secure_runner.party import __main__ as party

DIRECTORY, WAYS = Path(sys.argv[3]), sys.argv[4:]
NO_START, NO_RUN = "no start", "no run"
FOR_EVER_S = 3600.0


def taken(at: set[str]) -> str | None:
    """The first way that is left, if this is where it deviates; it is no longer left."""
    for number, way in enumerate(WAYS):
        mark = DIRECTORY / f"deviated-{number}"
        if way in at and not mark.exists():
            mark.touch()
            return way
    return None


def replaced(runtime: Any, message: bytes, way: str) -> list[bytes]:
    """What is sent in the place of a message with shares of inputs, or of outputs."""
    from secure_runner.party.shares import share_message, shares_of

    manifest, kind = runtime.manifest, decode(message).kind
    (tensor,) = manifest.private_inputs if kind is Kind.RUN else manifest.private_outputs
    frame, shares = shares_of(message, expected=1)
    about = {name: value for name, value in frame.meta.items() if name != "chunks"}
    size = about.get("batch_size", 1)

    def of(array: Any) -> bytes:
        return share_message(kind, frame.id, runtime.share_inputs([array])[0], about)

    return {
        "noise": lambda: [np.random.default_rng(1).bytes(len(message))],
        "half and silence": lambda: [message[: len(message) // 2]],
        "silence": list,
        "too few shares": lambda: [share_message(kind, frame.id, [], about)],
        "wrong shape": lambda: [of(np.zeros((size, tensor.shape[1] + 1), tensor.dtype))],
        "other batch size": lambda: [
            share_message(kind, frame.id, shares, about | {"batch_size": {1: 8, 8: 1}[size]})
        ],
        "repeated": lambda: [message, message],
        "no such turn": lambda: [share_message(kind, frame.id, shares, about | {"turn": 7})],
        "needless preparation": lambda: [share_message(Kind.PREPARE, 0, shares, about)],
        "result instead of inputs": lambda: [share_message(Kind.RESULT, frame.id, shares, about)],
        "inputs instead of result": lambda: [share_message(Kind.RUN, frame.id, shares, about)],
        "another run's": lambda: [share_message(kind, frame.id + 1, shares, about)],
    }[way]()


class Link:
    """Where messages with shares leave: the first one that is no warm-up's is replaced."""

    def __init__(self, runtime: Any, link: Any) -> None:
        self._runtime, self._link = runtime, link
        self._honest = False

    def send_async(self, rank: int, message: bytes) -> None:
        """Send it, or what takes its place."""
        frame = decode(message)
        first = frame.kind is not Kind.KEEPALIVE and bool(frame.id) and not self._honest
        way = taken({*WAYS} - {NO_START, NO_RUN}) if first else None
        self._honest = self._honest or first
        for sent in [message] if way is None else replaced(self._runtime, message, way):
            self._link.send_async(rank, sent)

    def recv(self, rank: int) -> bytes:
        """Receive honestly."""
        received: bytes = self._link.recv(rank)
        return received


def deviate() -> None:
    """Put what deviates in the loops' place."""
    from secure_runner.party import loops

    serve = loops.serve

    def deviating(runtime: Any) -> None:
        if runtime.spec.settings.role == "data_owner":
            runtime.inputs = Link(runtime, runtime.inputs)
        else:
            stop_in_a_run()
            runtime.outputs = Link(runtime, runtime.outputs)
        serve(runtime)

    loops.serve = deviating


def stop_in_a_run() -> None:
    """Take the input shares of a batch that is no warm-up, and compute nothing."""
    from secure_runner.party import peer_loop

    check_order = peer_loop.PeerLoop.check_order

    def stop(self: Any, run_id: int, batch_size: int) -> None:
        check_order(self, run_id, batch_size)
        if run_id and taken({NO_RUN}):
            time.sleep(FOR_EVER_S)

    peer_loop.PeerLoop.check_order = stop  # type: ignore[method-assign]


done = party.Stages.done


def after_stage(stages: Any, stage: str) -> None:
    """Deviate once what takes long is imported; or stop when the session is all but formed."""
    done(stages, stage)
    if stage == "import":
        deviate()
    if stage == "link_and_params" and taken({NO_START}):
        time.sleep(FOR_EVER_S)


party.Stages.done = after_stage  # type: ignore[method-assign]
sys.argv = sys.argv[:3]
party.main()
