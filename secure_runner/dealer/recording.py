"""A dealer that serves whatever it is asked and writes the transcript down. For simulations only."""

from __future__ import annotations

import secrets
from typing import Any

from secure_runner.dealer.corrections import Masks, correct
from secure_runner.dealer.peers import Peer
from secure_runner.dealer.prg import SEED_BYTES, Prg
from secure_runner.dealer.requests import RequestError, parse_request, read_body
from secure_runner.dealer.responses import correction_frames, data_response
from secure_runner.dealer.seeds import decrypt_seeds
from secure_runner.dealer.sm2 import PrivateKey
from secure_runner.dealer.steps import Step

__all__ = ["RecordingBook", "RecordingSession"]


class RecordingSession:
    """A session without a pinned transcript."""

    wants_preparation = False
    next_is_heavy = False

    def __init__(self, seeds: list[bytes], steps: list[Step]) -> None:
        self._parties = [Prg(seed) for seed in seeds]
        self._secret = Prg(secrets.token_bytes(SEED_BYTES))
        self._steps = steps
        self._counter = 0

    def answer(self, operation: str, body: bytes) -> bytes | None:
        """Serve a request, which must draw its masks from where the one before ended.

        Raises:
            RequestError: it does not, or it is malformed.
        """
        request = parse_request(operation, read_body(body))
        if request.counter != self._counter:
            raise RequestError(f"expected fresh masks at block {self._counter}, got {request.counter}")
        step = request.step
        masks = Masks(self._parties, request.counter, step.mask_blocks)
        self._counter += step.blocks
        self._steps.append(step)
        corrections = correct(step, request.counter, masks, self._parties, self._secret)
        return data_response(correction_frames(corrections))

    def prepare(self) -> None:
        """Nothing can be computed ahead: the next request is not known."""

    def add(self, prepared: None) -> None:
        """See :meth:`prepare`."""


class RecordingBook:
    """Opens a session for any seeds and keeps all steps in the order in which they came."""

    def __init__(self) -> None:
        self.key = PrivateKey()
        self.steps: list[Step] = []
        self._sessions: dict[tuple[str, ...], RecordingSession] = {}

    def session_of(self, operation: str, message: Any, peer: Peer) -> RecordingSession:
        """The session that a request belongs to.

        Raises:
            RequestError: the request is malformed.
            SeedError: its seeds were not made for this dealer.
        """
        request = parse_request(operation, message)
        session = self._sessions.get(request.ciphertexts)
        if session is None:
            seeds = decrypt_seeds(self.key, request.ciphertexts)
            session = self._sessions[request.ciphertexts] = RecordingSession(seeds, self.steps)
        return session

    def fail(self, message: Any, reason: str) -> None:
        """Nothing depends on a recording's sessions."""
