"""Rows of requests on their way through the queue: cut into slices, put together into batches, answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from secure_runner.errors import SecureRunnerError
from secure_runner.frames import Array

__all__ = ["Arrays", "Part", "Request", "Slice", "answer", "fail", "padded", "parts_of"]

Arrays = Mapping[str, Array]


@dataclass(frozen=True)
class Part:
    """Rows of one request in a batch, without the rows."""

    about: Any
    """What ``submit`` was given."""
    rows: int
    waited_s: float
    """Since the request arrived."""


@dataclass
class Request:
    """Some rows of one client, and the answer that it waits for."""

    arrays: Arrays
    rows: int
    answer: asyncio.Future[dict[str, Array]]
    about: Any = None
    arrived_at: float = field(default_factory=time.monotonic)
    """Of a clock of its own: uvloop's stands still while it works."""
    pieces: dict[int, Arrays] = field(default_factory=dict)
    """Answered rows, by their first row."""

    def fail(self, error: SecureRunnerError) -> None:
        """Answer with an error, unless there is an answer."""
        if not self.answer.done():
            self.answer.set_exception(error)

    def take(self, start: int, piece: Arrays) -> None:
        """Add an answered piece; the last one completes the request."""
        self.pieces[start] = piece
        answered = sum(len(next(iter(part.values()))) for part in self.pieces.values())
        if answered == self.rows and not self.answer.done():
            ordered = [self.pieces[at] for at in sorted(self.pieces)]
            self.answer.set_result({name: np.concatenate([p[name] for p in ordered]) for name in ordered[0]})


@dataclass
class Slice:
    """Some rows of a request, waiting for a run."""

    request: Request
    start: int
    stop: int
    attempts: int = 0

    @property
    def rows(self) -> int:
        """How many."""
        return self.stop - self.start


def padded(slices: Sequence[Slice], batch_size: int) -> dict[str, Array]:
    """Rows of several requests as one batch; zeros fill it up."""
    arrays = {}
    for name in slices[0].request.arrays:
        rows = [part.request.arrays[name][part.start : part.stop] for part in slices]
        missing = batch_size - sum(len(part) for part in rows)
        if missing:
            rows.append(np.zeros((missing, *rows[0].shape[1:]), rows[0].dtype))
        arrays[name] = np.concatenate(rows) if len(rows) > 1 else rows[0]
    return arrays


def answer(slices: Sequence[Slice], outputs: Arrays, batch_size: int) -> None:
    """Give each request its own rows of a batch's outputs.

    Raises:
        ValueError: the outputs are not of ``batch_size`` rows.
    """
    if any(len(array) != batch_size for array in outputs.values()):
        raise ValueError("a run answered another number of rows than it was given")
    at = 0
    for part in slices:
        rows = {name: array[at : at + part.rows] for name, array in outputs.items()}
        part.request.take(part.start, rows)
        at += part.rows


def fail(slices: Sequence[Slice], error: SecureRunnerError) -> None:
    """Answer the requests of all slices with an error."""
    for part in slices:
        part.request.fail(error)


def parts_of(slices: Sequence[Slice]) -> list[Part]:
    """Whose rows these are, and how long they have waited."""
    now = time.monotonic()
    return [Part(part.request.about, part.rows, now - part.request.arrived_at) for part in slices]
