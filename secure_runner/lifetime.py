"""The lives of processes: ended with the one that started them, and seen to have been stopped."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import time
from pathlib import Path

__all__ = ["StopClock", "end_with_parent", "end_with_server"]

_log = logging.getLogger(__name__)
_PR_SET_PDEATHSIG = 1
_WORKERS = "_bentoml_impl.worker"
_LONGEST_LOOK_S = 0.5


def end_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it is gone. Linux; elsewhere, nothing.

    A killed parent cannot end its children itself. An orphan would go on holding ports, and shares in memory.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def end_with_server() -> None:
    """In a worker of ``bentoml serve``: end with the server. In any other process, nothing.

    BentoML's workers live on when their server is killed, and keep its port.
    """
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if sys.platform != "linux" or spec is None or not spec.name.startswith(_WORKERS):
        return
    end_with_parent()
    if not _parent_runs_this_python():
        # It was killed while this worker was still importing, and an init process has taken its place.
        _log.error("the server is gone; its worker ends")
        os._exit(1)


def _parent_runs_this_python() -> bool:
    try:
        return Path(f"/proc/{os.getppid()}/exe").samefile("/proc/self/exe")
    except OSError:
        return False


class StopClock:
    """How long a process has been stopped (SIGSTOP), as seen by who looks several times a second.

    The kernel says it of a process at once, where silence may as well be a long import or a busy machine.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._stopped_s = 0.0
        self._looked_s = time.monotonic()

    def look(self) -> float:
        """Seconds for which every look has found it stopped; 0 if this one does not."""
        now_s = time.monotonic()
        # If whoever looks was stopped too, as by Ctrl-Z in a terminal, that time does not count.
        self._stopped_s += min(now_s - self._looked_s, _LONGEST_LOOK_S)
        self._looked_s = now_s
        if not self._is_stopped():
            self._stopped_s = 0.0
        return self._stopped_s

    def _is_stopped(self) -> bool:
        try:
            stat = Path(f"/proc/{self._pid}/stat").read_bytes()
        except OSError:
            return False
        # After the name, which stands in parentheses and may hold any.
        return stat.rpartition(b")")[2].split()[0] == b"T"
