"""A party process that notes the turns of its runtimes: ``noting_party.py NAME FD FILE``.

A line for each event: ``take TURN``, ``stocked TURN``, ``due TURN``, ``prepared TURN STOCKED``.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from secure_runner.party import __main__ as party
from secure_runner.party import turns

NOTES = Path(sys.argv[3])


def note(*words: object) -> None:
    """Add a line."""
    with NOTES.open("a") as notes:
        notes.write(" ".join(map(str, words)) + "\n")


class NotedTurns(turns.Turns):
    """The same, noted."""

    def take(self, batch_size: int) -> int:
        index = super().take(batch_size)
        note("take", index)
        return index

    def ran(self, index: int, batch_size: int, cpu_s: float) -> bool:
        stocked = super().ran(index, batch_size, cpu_s)
        if stocked:
            note("stocked", index)
        return stocked

    def due(self) -> int | None:
        index = super().due()
        if index is not None:
            note("due", index)
        return index

    def prepared(self, index: int, *, stocked: bool) -> None:
        super().prepared(index, stocked=stocked)
        note("prepared", index, stocked)


turns.Turns = NotedTurns  # type: ignore[misc]
sys.argv = sys.argv[:3]
party.main()
