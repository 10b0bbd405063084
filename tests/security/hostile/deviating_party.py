"""A party process whose first batch's message to the model owner is replaced.

``deviating_party.py NAME FD HOW FILE``; FILE is made when the message has been sent.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from secure_runner.frames import Kind, decode
from secure_runner.party import __main__ as party

HOW, DONE = sys.argv[3], Path(sys.argv[4])


def replaced(runtime: Any, message: bytes) -> list[bytes]:
    """What is sent in the place of a message with shares."""
    from secure_runner.party.shares import share_message, shares_of

    frame, shares = shares_of(message, expected=len(runtime.manifest.private_inputs))
    about = {name: value for name, value in frame.meta.items() if name != "chunks"}
    (tensor,) = runtime.manifest.private_inputs

    def of(array: Any) -> bytes:
        return share_message(Kind.RUN, frame.id, runtime.share_inputs([array])[0], about)

    size = about["batch_size"]
    other = {1: 8, 8: 1}[size]
    return {
        "noise": lambda: [np.random.default_rng(1).bytes(len(message))],
        "truncated": lambda: [message[: len(message) // 2]],
        "too few shares": lambda: [share_message(Kind.RUN, frame.id, [], about)],
        "wrong shape": lambda: [of(np.zeros((size, tensor.shape[1] + 1), tensor.dtype))],
        "other batch size": lambda: [
            share_message(Kind.RUN, frame.id, shares, about | {"batch_size": other})
        ],
        "repeated": lambda: [message, message],
        "result instead of inputs": lambda: [share_message(Kind.RESULT, frame.id, shares, about)],
        "half and silence": list,
    }[HOW]()


def deviate() -> None:
    """Put a sender in place that replaces the first message of a batch that is no warm-up."""
    from secure_runner.party import loops

    class Deviating(loops.DataOwnerLoop):
        def submit(self, run_id: int, about: Any, arrays: dict[str, Any]) -> None:
            if run_id and not DONE.exists():
                self.runtime.inputs = Link(self.runtime)
            super().submit(run_id, about, arrays)

    class Link:
        def __init__(self, runtime: Any) -> None:
            self.runtime, self.link = runtime, runtime.inputs

        def send_async(self, rank: int, message: bytes) -> None:
            if decode(message).kind is not Kind.RUN or DONE.exists():
                self.link.send_async(rank, message)
                return
            for other in replaced(self.runtime, message):
                self.link.send_async(rank, other)
            DONE.touch()

    loops.DataOwnerLoop = Deviating  # type: ignore[misc]


done = party.Stages.done


def after_import(stages: Any, stage: str) -> None:
    """Deviate once what takes long is imported."""
    done(stages, stage)
    if stage == "import":
        deviate()


party.Stages.done = after_import  # type: ignore[method-assign]
sys.argv = sys.argv[:3]
party.main()
