"""Work that can kill its process, done in another one: a frame of bytes in, a frame of bytes out."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

from secure_runner.errors import ProgramError
from secure_runner.frames import Bytes, Frame, FrameError, Kind, decode, encode

__all__ = ["ChildTimeoutError", "answer", "ask"]

_TIMEOUT_S = 3600.0


class ChildTimeoutError(ProgramError):
    """The work was not done in time."""


def ask(
    module: str,
    what: str,
    meta: Mapping[str, Any],
    parts: Sequence[Bytes],
    *,
    timeout_s: float = _TIMEOUT_S,
    environment: Mapping[str, str] | None = None,
) -> list[bytes]:
    """Run ``python -m module`` on one job and return its answer.

    Args:
        module: calls :func:`answer` when it is run.
        what: the work, for people, as the subject of a sentence.
        meta: JSON of the job.
        parts: bytes of the job.
        timeout_s: when to give the process up.
        environment: added to this process's own.

    Raises:
        ChildTimeoutError: it took too long.
        ProgramError: the process died or refused; with the last it said.
    """
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **(environment or {})},
    )
    # Part by part: together they may be as large as the model.
    stdin, process.stdin = process.stdin, None
    assert stdin is not None
    writer = threading.Thread(target=_write, args=(stdin, encode(Frame(Kind.START, 0, meta, parts))))
    writer.start()
    try:
        stdout, stderr = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        reason = f"{what} did not finish in {timeout_s:.0f} s; the model is too large"
        raise ChildTimeoutError(reason) from None
    finally:
        process.kill()
        process.wait()
        writer.join()
    try:
        return [bytes(part) for part in decode(stdout).parts]
    except FrameError:
        said = _last_words(stderr.decode(errors="replace"))
        raise ProgramError(f"{what} failed (exit code {process.returncode}): {said}") from None


def _write(stdin: IO[bytes], buffers: Sequence[Bytes]) -> None:
    # A process that has ended reads no more; how it ended says why.
    with contextlib.suppress(BrokenPipeError), stdin:
        stdin.writelines(buffers)


def _last_words(stderr: str) -> str:
    """The last line that is no frame of a C++ stack."""
    lines = [line.strip() for line in stderr.splitlines()]
    told = [line for line in lines if line and not line.lower().startswith(("#", "stacktrace"))]
    return told[-1] if told else "it said nothing"


def answer(work: Callable[[Frame], Sequence[bytes]]) -> None:
    """In the child: do the work and write its answer.

    Libraries write warnings to standard output when they please, so that goes to standard error meanwhile.
    """
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as out:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        parts = work(decode(sys.stdin.buffer.read()))
        out.write(b"".join(encode(Frame(Kind.RESULT, parts=parts))))
