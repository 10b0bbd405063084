"""Answers in the order of a transcript, run after run: what the dealer and a party's relay both hand out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import orjson

from secure_runner.dealer.requests import RequestError, expected_body, parse_request, read_body
from secure_runner.dealer.responses import data_response
from secure_runner.dealer.steps import Step
from secure_runner.dealer.transcript import Transcript

__all__ = ["Answers", "Place", "Prepared", "Runs"]


@dataclass(frozen=True)
class Place:
    """One request of a run that is to come."""

    index: int
    """Of the step in the transcript."""
    step: Step
    counter: int
    """The first generator block of its masks."""


class Runs:
    """The requests of run after run. Blocks are used once: the position never goes back."""

    def __init__(self, transcript: Transcript) -> None:
        self._steps = transcript.steps
        self.next = Place(0, self._steps[0], 0)
        """The request that follows those that were passed."""

    def pass_one(self) -> Place:
        """The next request; moves on."""
        place = self.next
        index = (place.index + 1) % len(self._steps)
        self.next = Place(index, self._steps[index], place.counter + place.step.blocks)
        return place


@dataclass(frozen=True)
class Prepared:
    """A request that is to come, as SPU's client writes it, and its corrections, in SPU's frames."""

    place: Place
    body: bytes
    frames: bytes | memoryview

    @classmethod
    def of(cls, place: Place, ciphertexts: Sequence[str], frames: bytes | memoryview) -> Prepared:
        """The corrections of a place in a session of these ciphertexts."""
        body = orjson.dumps(expected_body(place.step, place.counter, list(ciphertexts)))
        return cls(place, body, frames)

    def is_asked_by(self, operation: str, body: bytes) -> bool:
        """Whether a request's path and body are this one's; equal bytes need no parser."""
        return operation == self.place.step.request and (
            body == self.body or bool(read_body(body) == orjson.loads(self.body))
        )


class Answers:
    """A queue of answers to the next requests of a transcript. Belongs to one thread.

    Args:
        transcript: what a run asks for; at least one step.
        ciphertexts: the parties' seeds under the job's key, base64, in rank order, as requests bear them.
    """

    def __init__(self, transcript: Transcript, ciphertexts: Sequence[str]) -> None:
        self.run_length = len(transcript.steps)
        self.ciphertexts = tuple(ciphertexts)
        self.pending: deque[Prepared] = deque()
        self.pending_bytes = 0
        self.served = 0
        """Requests answered so far, repeated ones not counted."""
        self._last: Prepared | None = None

    def add(self, prepared: Iterable[Prepared]) -> None:
        """Put what follows in the transcript at the end of the queue."""
        for item in prepared:
            self.pending.append(item)
            self.pending_bytes += len(item.frames)

    def pop(self) -> Prepared:
        """Take the first one out of the queue. It may be asked for once more."""
        self._last = self.pending.popleft()
        self.pending_bytes -= len(self._last.frames)
        self.served += 1
        return self._last

    def answer(self, operation: str, body: bytes) -> bytes | None:
        """The HTTP answer to a request, or None where the queue is empty.

        The request before may come again (SPU's client repeats one whose answer got lost) and gets the same
        bytes again.

        Raises:
            RequestError: it is not the next request of the transcript. Nothing was revealed.
        """
        if self.pending and self.pending[0].is_asked_by(operation, body):
            return data_response(self.pop().frames)
        if self._last is not None and self._last.is_asked_by(operation, body):
            return data_response(self._last.frames)
        if not self.pending:
            return None
        expected, asked = self.pending[0].place, parse_request(operation, read_body(body))
        raise RequestError(
            f"outside the registered transcript: expected step {expected.index + 1} of {self.run_length}, "
            f"{expected.step.describe()} at block {expected.counter}; "
            f"asked for {asked.step.describe()} at block {asked.counter}"
        )
