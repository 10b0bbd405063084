"""Processes that end with the one that started them, however that one went."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from pathlib import Path

__all__ = ["end_with_parent", "end_with_server"]

_log = logging.getLogger(__name__)
_PR_SET_PDEATHSIG = 1
_WORKERS = "_bentoml_impl.worker"


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
