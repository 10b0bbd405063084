"""A session: the seeds of one SPU runtime's parties, pinned to the transcript of the one executable it runs.

The adjusting party alone talks to the dealer. Unpinned, it could ask for RandBit over blocks that another
party later uses as a mask, and read that mask from the answer. So a session serves nothing but its
transcript, run after run: every request's operation, sizes and blocks are known before it comes, and each
block is used once.

One executable a session, and not several to choose from: the parties would have to tell the dealer which one
each run is, or else the adjusting party could ask along one executable's transcript while the other party
draws its masks along another's.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from secure_runner.dealer.corrections import Masks, correct
from secure_runner.dealer.prg import SEED_BYTES, Prg
from secure_runner.dealer.requests import RequestError, expected_body, parse_request
from secure_runner.dealer.responses import correction_response
from secure_runner.dealer.steps import Step
from secure_runner.dealer.transcript import Transcript

__all__ = ["Prepared", "Session"]

# Small steps are computed together, for one call of the generators instead of one for each mask; but not so
# many that a request that comes meanwhile would wait.
_BATCH_MASK_BYTES = 64 << 10
_BATCH_STEPS = 8
_HEAVY_MASK_BYTES = 1 << 20
_HEAVY_MULTIPLICATIONS = 1 << 20


@dataclass
class Prepared:
    """A step of a run that is to come: what will be asked, and the answer."""

    index: int
    step: Step
    counter: int
    body: dict[str, Any]
    response: bytes

    def is_asked_by(self, operation: str, message: Any) -> bool:
        """Whether a request's path and JSON are this step's."""
        return operation == self.step.operation and bool(message == self.body)


class Session:
    """Answers of one session, computed ahead because the next request is always known.

    :meth:`prepare` may run in another thread, one call at a time, and what it returns goes to :meth:`add`;
    everything else belongs to one thread.

    Args:
        transcript: what a run asks for; at least one step.
        seeds: the parties' seeds, 16 bytes each, in rank order.
        ciphertexts: the same under the dealer's key, as requests bear them.
        lookahead_bytes: how many bytes of answers may wait; at least one step always may.
    """

    def __init__(
        self,
        transcript: Transcript,
        seeds: Sequence[bytes],
        ciphertexts: Sequence[str],
        *,
        lookahead_bytes: int,
    ) -> None:
        self._steps = transcript.steps
        self._parties = [Prg(seed) for seed in seeds]
        self._ciphertexts = list(ciphertexts)
        self._secret = Prg(secrets.token_bytes(SEED_BYTES))
        self._lookahead_bytes = lookahead_bytes
        self._pending: deque[Prepared] = deque()
        self._pending_bytes = 0
        self._last: Prepared | None = None
        self._next_index = 0
        self._next_counter = 0
        self.served = 0
        """Requests answered so far, repeated ones not counted."""

    def answer(self, operation: str, message: Any) -> bytes | None:
        """The answer to a request, or None where :meth:`prepare` and :meth:`add` have to run first.

        The request before may come again (SPU's client repeats one whose answer got lost) and gets the same
        bytes again.

        Raises:
            RequestError: it is not the next request of the transcript. Nothing was revealed.
        """
        if not self._pending:
            return None
        pending = self._pending[0]
        if pending.is_asked_by(operation, message):
            self._pending.popleft()
            self._pending_bytes -= len(pending.response)
            self._last = pending
            self.served += 1
            return pending.response
        if self._last is not None and self._last.is_asked_by(operation, message):
            return self._last.response
        asked = parse_request(operation, message)
        raise RequestError(
            f"outside the registered transcript: expected step {pending.index + 1} of {len(self._steps)}, "
            f"{pending.step.describe()} at block {pending.counter}; "
            f"asked for {asked.step.describe()} at block {asked.counter}"
        )

    @property
    def wants_preparation(self) -> bool:
        """Whether there is room to compute ahead: less than a run, and less than the bytes allowed, waits."""
        return len(self._pending) < len(self._steps) and self._pending_bytes < self._lookahead_bytes

    @property
    def next_is_heavy(self) -> bool:
        """Whether the next :meth:`prepare` takes long enough to deserve a thread."""
        step = self._steps[self._next_index]
        return (
            sum(step.input_bytes) * len(self._parties) > _HEAVY_MASK_BYTES
            or step.multiplications > _HEAVY_MULTIPLICATIONS
        )

    def prepare(self) -> list[Prepared]:
        """Compute the answers of the next step, or of the next few small ones, in order."""
        first_counter, batch = self._next_counter, self._next_batch()
        _, last_step, last_counter = batch[-1]
        masks = Masks(self._parties, first_counter, last_counter + last_step.mask_blocks - first_counter)
        prepared = []
        for index, step, counter in batch:
            corrections = correct(step, counter, masks, self._parties, self._secret)
            body = expected_body(step, counter, self._ciphertexts)
            prepared.append(Prepared(index, step, counter, body, correction_response(corrections)))
        return prepared

    def add(self, prepared: list[Prepared]) -> None:
        """Take in what :meth:`prepare` returned."""
        self._pending.extend(prepared)
        self._pending_bytes += sum(len(item.response) for item in prepared)

    def _next_batch(self) -> list[tuple[int, Step, int]]:
        """Index, step and counter of what comes next; moves on."""
        batch: list[tuple[int, Step, int]] = []
        mask_bytes = 0
        while True:
            index = self._next_index
            step = self._steps[index]
            mask_bytes += sum(step.input_bytes)
            if batch and (mask_bytes > _BATCH_MASK_BYTES or len(batch) == _BATCH_STEPS):
                return batch
            batch.append((index, step, self._next_counter))
            self._next_counter += step.blocks
            self._next_index = (index + 1) % len(self._steps)
            if self._next_index == 0:
                return batch
