"""BentoML's supervisor, made to look after its workers closely.

As it comes it looks every ten seconds whether a worker is gone, never whether one is stopped, and starts the
next one from nothing. This one looks four times a second, kills a worker that stays stopped, and keeps a
second worker of each service that stands by (:mod:`secure_runner.standby`).
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bentoml._internal.utils import circus as bentoml_circus
from circus.process import DEAD_OR_ZOMBIE, UNEXISTING

from secure_runner.config import PartySettings, Timeouts, timeouts_of
from secure_runner.errors import ConfigError
from secure_runner.lifetime import StopClock
from secure_runner.standby import LOCK_VARIABLE

__all__ = ["STANDBY_VARIABLE", "Supervisor", "install"]

STANDBY_VARIABLE = "SECURE_RUNNER_STANDBY"
"""``0`` leaves the workers that stand by out: less memory, and a start from nothing where a worker dies."""

_log = logging.getLogger(__name__)
_LOOK_INTERVAL_S = 0.25
_SETTLING_S = 2.0
"""How long a service has served before another worker of it is started: the first answers come first."""
_START_INTERVAL_S = 5.0
"""Shortest time between two starts of a service's workers: one that cannot start must not take all time."""


class Supervisor(bentoml_circus.Arbiter):  # type: ignore[misc]  # BentoML has no types
    """Looks after the workers of a server. Arguments are those of the class that it takes the place of."""

    def __init__(self, watchers: Sequence[Any], *args: Any, **options: Any) -> None:
        super().__init__(watchers, *args, **(options | {"check_delay": _LOOK_INTERVAL_S}))
        directory = tempfile.mkdtemp(prefix="secure-runner-workers-")
        self.exit_stack.callback(shutil.rmtree, directory, ignore_errors=True)
        self._standby = os.environ.get(STANDBY_VARIABLE) != "0"
        self._stopped_timeout_s = _timeouts().stopped_timeout_s
        # More than one worker is what somebody has asked BentoML for: then all of them serve.
        single = [watcher for watcher in watchers if watcher.numprocesses == 1]
        self._services = [
            _Service(watcher, Path(directory) / str(number)) for number, watcher in enumerate(single)
        ]

    def manage_watchers(self) -> Any:
        """Look at all workers: called by the base class's own timer."""
        if self._restarting or self._exclusive_running_command is not None:
            return None
        if not self._stopping:
            for service in self._services:
                service.kill_stopped(self._stopped_timeout_s)
            standby = self._standby and all(service.serves() for service in self._services)
            in_time = [service.plan(standby=standby) for service in self._services]
            if not all(in_time):
                return None
        return super().manage_watchers()


class _Service:
    """The workers of one service: one that serves and, most of the time, one that stands by."""

    def __init__(self, watcher: Any, lock: Path) -> None:
        self._watcher = watcher
        self._lock = lock
        self._respawn = watcher.respawn
        self._started_s = 0.0
        self._clocks: dict[int, StopClock] = {}
        watcher.env[LOCK_VARIABLE] = str(lock)

    def kill_stopped(self, timeout_s: float) -> None:
        """Kill the workers that have been stopped for so long."""
        living = self._living()
        self._clocks = {pid: self._clocks.get(pid) or StopClock(pid) for pid in living}
        for pid, clock in self._clocks.items():
            if clock.look() >= timeout_s:
                _log.warning("worker %d of %s is stopped; killing it", pid, self._watcher.name)
                # A child that has not been waited for: its number is nobody else's.
                living[pid].send_signal(9)

    def serves(self) -> bool:
        """Whether a worker that lives has said so, some time ago."""
        try:
            said, pid = self._lock.stat(), self._lock.read_text()
        except OSError:
            return False
        settled = time.time() - said.st_mtime > _SETTLING_S
        return settled and pid.isdecimal() and int(pid) in self._living()

    def plan(self, *, standby: bool) -> bool:
        """Say how many workers there should be; false if it is too early to start the one that is missing."""
        watcher, living = self._watcher, len(self._living())
        self._started_s = max([self._started_s, *(p.started for p in watcher.processes.values())])
        wanted = max(living, 2 if standby else 1)
        if wanted > living and time.time() - self._started_s < _START_INTERVAL_S:
            wanted = living
        watcher.numprocesses = wanted
        # In a container BentoML starts no worker again: it ends with its last one, and is started anew.
        watcher.respawn = self._respawn or living > 0
        return wanted > 0 or not self._respawn

    def _living(self) -> dict[int, Any]:
        return {
            pid: process
            for pid, process in self._watcher.processes.items()
            if process.status not in (DEAD_OR_ZOMBIE, UNEXISTING)
        }


def install() -> None:
    """Have the server that is being started use this supervisor."""
    bentoml_circus.Arbiter = Supervisor


def _timeouts() -> Timeouts:
    try:
        settings = PartySettings.from_environment(os.environ)
    except ConfigError:
        # The workers say what is wrong with it.
        return Timeouts()
    return timeouts_of(settings)
