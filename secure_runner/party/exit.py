"""How a party process ends: at once, with a code, and without telling a peer why."""

from __future__ import annotations

import enum
import logging
import os
from typing import TYPE_CHECKING, NoReturn

from secure_runner.frames import Frame, Kind

if TYPE_CHECKING:
    from secure_runner.party.pipe import Pipe

__all__ = ["FailureCode", "end_process"]

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
    RUNNER = "runner"
    """The runner is gone, or sent what is not a frame."""


def end_process(pipe: Pipe, code: FailureCode, error: BaseException) -> NoReturn:
    """Tell the runner the code and end this process at once.

    Library messages can hold addresses and, in principle, data: only the exception's type is logged. There is
    no orderly way out: a process whose link has failed crashes when it cleans up.
    """
    _log.error("party process ends: %s (%s)", code.value, type(error).__name__)
    try:
        pipe.send(Frame(Kind.FAILED, meta={"code": code.value, "error": type(error).__name__}))
    finally:
        os._exit(1)
