"""The transcript of an executable: which corrections one run asks for, in order.

SPU's control flow does not depend on secret data, so every run of an executable asks for the same operations
with the same sizes. That is what makes it possible to pin: see :mod:`secure_runner.dealer.session`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import orjson

from secure_runner.dealer.steps import Step, StepError
from secure_runner.errors import ProgramError

__all__ = ["TRANSCRIPT_FORMAT", "Transcript"]

TRANSCRIPT_FORMAT = 1


@dataclass(frozen=True)
class Transcript:
    """The steps of one run. Public: it tells operations and sizes, which all parties and the dealer know."""

    steps: tuple[Step, ...]

    @classmethod
    def of(cls, steps: Iterable[Step]) -> Transcript:
        """The transcript of these steps."""
        return cls(tuple(steps))

    @classmethod
    def from_json(cls, value: Any) -> Transcript:
        """Read the canonical form, from anyone.

        Raises:
            ProgramError: it is something else.
        """
        if (
            not isinstance(value, dict)
            or set(value) != {"format", "run"}
            or value["format"] != TRANSCRIPT_FORMAT
        ):
            raise ProgramError(
                f'a transcript is {{"format": {TRANSCRIPT_FORMAT}, "run": [[operation, bytes, dims…], …]}}'
            )
        if not isinstance(value["run"], list):
            raise ProgramError("a transcript's run is a list of steps")
        steps = []
        for index, item in enumerate(value["run"]):
            try:
                steps.append(Step.from_json(item))
            except StepError as error:
                raise ProgramError(f"step {index} of the transcript: {error}") from None
        return cls(tuple(steps))

    def to_json(self) -> dict[str, Any]:
        """The canonical form."""
        return {"format": TRANSCRIPT_FORMAT, "run": [step.to_json() for step in self.steps]}

    @cached_property
    def canonical_json(self) -> bytes:
        """The bytes that the digest covers: sorted keys, no spaces."""
        return orjson.dumps(self.to_json(), option=orjson.OPT_SORT_KEYS)

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the canonical form."""
        return hashlib.sha256(self.canonical_json).hexdigest()

    @cached_property
    def output_bytes(self) -> int:
        """Bytes of all corrections of a run."""
        return sum(sum(step.output_bytes) for step in self.steps)

    @cached_property
    def mask_bytes(self) -> int:
        """Bytes of masks that each party draws in a run."""
        return sum(sum(step.input_bytes) for step in self.steps)
