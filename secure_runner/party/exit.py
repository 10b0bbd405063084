"""How a party process ends: at once, with a code, and without telling a peer why."""

from __future__ import annotations

import contextlib
import enum
import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn

from secure_runner.errors import SecureRunnerError
from secure_runner.frames import Frame, Kind

if TYPE_CHECKING:
    from secure_runner.party.pipe import Pipe

__all__ = ["FailureCode", "end_process", "faults_end"]

_log = logging.getLogger(__name__)


class FailureCode(str, enum.Enum):
    """Why a party process ended. The code is all that it tells its runner."""

    CLUSTER = "cluster"
    """SecretFlow could not form the cluster, or sharing the params failed."""
    PROGRAM = "program"
    """The program or the params could not be loaded."""
    LINK = "link"
    """The SPU link failed: a peer is gone, timed out, or sent what is not a share."""
    RUN = "run"
    """A run of the executable failed."""
    DEALER = "dealer"
    """The dealer is gone, restarted, or refused to go on."""
    LIMIT = "limit"
    """The data owner asked for more than the model owner allows, although it had been told its limits."""
    RUNNER = "runner"
    """The runner is gone, or sent what is not a frame."""


def end_process(pipe: Pipe, code: FailureCode, error: BaseException) -> NoReturn:
    """Tell the runner the code and end this process at once.

    There is no orderly way out: a process whose link has failed crashes when it cleans up.
    """
    _log.error("party process ends: %s (%s)", code.value, _said(error))
    try:
        pipe.send(Frame(Kind.FAILED, meta={"code": code.value, "error": type(error).__name__}))
    finally:
        os._exit(1)


@contextlib.contextmanager
def faults_end(pipe: Pipe, code: FailureCode) -> Iterator[None]:
    """Whatever is raised inside ends this process, as :func:`end_process` does."""
    try:
        yield
    except BaseException as error:
        end_process(pipe, code, error)


def _said(error: BaseException) -> str:
    """What may be logged of an error: our own messages hold no values; of a library's, the type alone."""
    cause = getattr(error, "cause", None)
    if callable(cause) and isinstance(cause(), BaseException):
        # SecretFlow wraps what happened in one of its own.
        return _said(cause())
    own = isinstance(error, SecureRunnerError)
    return f"{type(error).__name__}: {error}" if own else type(error).__name__
