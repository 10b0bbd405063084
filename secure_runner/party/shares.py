"""SPU shares as bytes: framed for the link without pickle, and checked before SPU sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from secure_runner.frames import Bytes, Frame, FrameError, Kind, decode, encode

if TYPE_CHECKING:
    from spu.libspu import Share

__all__ = ["share_message", "shares_of"]


def share_message(kind: Kind, run_id: int, shares: Sequence[Share], about: Mapping[str, Any]) -> bytes:
    """One message with one party's shares of several tensors, in the program's order.

    ``about`` goes with them in the clear.
    """
    parts: list[Bytes] = []
    for share in shares:
        parts.append(share.meta)
        parts.extend(share.share_chunks)
    meta = {"chunks": [len(share.share_chunks) for share in shares], **about}
    return b"".join(encode(Frame(kind, run_id, meta, parts)))


def shares_of(data: bytes, *, expected: int) -> tuple[Frame, list[Share]]:
    """Take a message of another party apart.

    SPU itself refuses shares of a wrong size, shape or type; it cannot tell wrong numbers from right ones.

    Raises:
        FrameError: the message is malformed or does not hold ``expected`` shares.
    """
    from spu.libspu import Share

    frame = decode(data)
    chunk_counts = frame.meta.get("chunks")
    if not isinstance(chunk_counts, list) or not all(isinstance(c, int) and c >= 0 for c in chunk_counts):
        raise FrameError("a message with shares does not say how many chunks they have")
    if len(chunk_counts) != expected or sum(chunk_counts) + expected != len(frame.parts):
        raise FrameError(f"{expected} shares were expected, {len(chunk_counts)} came")
    shares, at = [], 0
    for count in chunk_counts:
        share = Share()
        share.meta = bytes(frame.parts[at])
        share.share_chunks = [bytes(chunk) for chunk in frame.parts[at + 1 : at + 1 + count]]
        shares.append(share)
        at += 1 + count
    return frame, shares
