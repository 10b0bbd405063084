"""What the data owner's party says of a batch beside its shares, and what the other parties believe of it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from secure_runner.frames import FrameError

__all__ = ["AboutBatch"]

_BATCH_ID = re.compile(r"[0-9a-f]{0,32}")
_TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True)
class AboutBatch:
    """Goes with input shares to every party, in the clear; is in the audit log of each.

    ``batch_size`` is what is computed, and cannot be wrong. ``rows`` is how many of them the data owner says
    it needs, and may be.
    """

    batch_size: int
    rows: int = 0
    """0 for a warm-up."""
    batch_id: str = ""
    """Random hex, from the data owner's runner: matches both parties' audit logs."""
    traceparent: str = ""
    """W3C Trace Context of the batch, or nothing."""

    def as_meta(self) -> dict[str, Any]:
        """For a frame's ``meta``."""
        return asdict(self)

    @classmethod
    def of_meta(cls, meta: Mapping[str, Any], batch_sizes: Collection[int]) -> AboutBatch:
        """Read what another party says.

        Raises:
            FrameError: it is not of this form; says nothing of its content.
        """
        batch_size, rows = meta.get("batch_size"), meta.get("rows")
        batch_id, traceparent = meta.get("batch_id"), meta.get("traceparent")
        if type(batch_size) is not int or batch_size not in batch_sizes:
            raise FrameError("a message on the link asks for a batch that this program does not have")
        if type(rows) is not int or not 0 <= rows <= batch_size:
            raise FrameError("a message on the link says of more rows than its batch has")
        if not isinstance(batch_id, str) or not _BATCH_ID.fullmatch(batch_id):
            raise FrameError("a message on the link has a malformed batch id")
        if not isinstance(traceparent, str) or (traceparent and not _TRACEPARENT.fullmatch(traceparent)):
            raise FrameError("a message on the link has a malformed trace context")
        return cls(batch_size, rows, batch_id, traceparent)
