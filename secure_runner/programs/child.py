"""Work that can kill its process, done in another one: a frame of bytes in, a frame of bytes out."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from secure_runner.errors import ProgramError
from secure_runner.frames import Bytes, Frame, FrameError, Kind, decode, encode

__all__ = ["answer", "ask"]

_TIMEOUT_S = 3600.0


def ask(module: str, what: str, meta: Mapping[str, Any], parts: Sequence[Bytes]) -> list[bytes]:
    """Run ``python -m module`` on one job and return its answer.

    Args:
        module: calls :func:`answer` when it is run.
        what: the work, for people, as the subject of a sentence.
        meta: JSON of the job.
        parts: bytes of the job.

    Raises:
        ProgramError: the process died, refused or took too long; with the last it said.
    """
    job = b"".join(encode(Frame(Kind.START, 0, meta, parts)))
    command = [sys.executable, "-m", module]
    try:
        done = subprocess.run(command, input=job, capture_output=True, timeout=_TIMEOUT_S, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise ProgramError(f"{what} did not finish in {_TIMEOUT_S:.0f} s; the model is too large") from None
    try:
        return [bytes(part) for part in decode(done.stdout).parts]
    except FrameError:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise ProgramError(
            f"{what} failed (exit code {done.returncode}): {said[-1] if said else 'it said nothing'}"
        ) from None


def answer(work: Callable[[Frame], Sequence[bytes]]) -> None:
    """In the child: do the work and write its answer.

    Libraries write warnings to standard output when they please, so that goes to standard error meanwhile.
    """
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as out:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        parts = work(decode(sys.stdin.buffer.read()))
        out.write(b"".join(encode(Frame(Kind.RESULT, parts=parts))))
