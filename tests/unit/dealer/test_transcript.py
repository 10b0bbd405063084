"""Transcripts: one form, one digest, and nothing malformed gets in."""

from __future__ import annotations

from typing import Any

import pytest

from secure_runner.dealer.steps import Step
from secure_runner.dealer.transcript import Transcript
from secure_runner.errors import ProgramError

_STEPS = [
    Step("Dot", 8, (2, 3, 4)),
    Step("TruncPr", 8, (6, 18)),
    Step("Perm", 16, (5, 1)),
    Step("And", 16, (2,)),
]


def test_the_form_and_the_digest_do_not_change() -> None:
    """Manifests hold the digest, so that a change of the form needs a new format number."""
    transcript = Transcript.of(_STEPS)

    assert transcript.canonical_json == (
        b'{"format":1,"run":[["Dot",8,2,3,4],["TruncPr",8,6,18],["Perm",16,5,1],["And",16,2]]}'
    )
    assert transcript.digest == "779dfe3c3a9fb47eecd30e1be66d1e0b6ffebefe9310a36af8d9606be9fff529"
    assert Transcript.from_json(transcript.to_json()) == transcript


def test_order_and_sizes_count() -> None:
    """Any difference is another digest."""
    digests = {
        Transcript.of(steps).digest
        for steps in (_STEPS, _STEPS[::-1], _STEPS[:-1], [*_STEPS[:-1], Step("And", 16, (3,))])
    }
    assert len(digests) == 4


def test_sizes_are_those_of_the_wire() -> None:
    """Masks and corrections in bytes."""
    transcript = Transcript.of([Step("TruncPr", 8, (6, 18))])
    assert (transcript.mask_bytes, transcript.output_bytes) == (3 * 48, 2 * 48)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {"format": 2, "run": []},
        {"format": 1},
        {"format": 1, "run": {}},
        {"format": 1, "run": [["Mul", 8]]},
        {"format": 1, "run": [["Mul", 8, 0]]},
        {"format": 1, "run": [["Mul", 8, True]]},
        {"format": 1, "run": [["Mul", 7, 1]]},
        {"format": 1, "run": [["And", 8, 1]]},
        {"format": 1, "run": [["Mul", 8, 1.0]]},
        {"format": 1, "run": [["Mul", 8, 1, 1]]},
        {"format": 1, "run": [["Cube", 8, 1]]},
        {"format": 1, "run": [[["Mul"], 8, 1]]},
        {"format": 1, "run": [["Trunc", 8, 1, 64]]},
        {"format": 1, "run": [["Perm", 8, 1, -1]]},
        {"format": 1, "run": [["Mul", 8, 1 << 33]]},
    ],
)
def test_malformed_transcripts_are_refused(value: Any) -> None:
    """With an error that says what a transcript is, or which step is wrong."""
    with pytest.raises(ProgramError, match="transcript"):
        Transcript.from_json(value)
