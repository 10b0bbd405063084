"""A served Bento as a target: its processes by role, what they use, and what they leave behind."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

__all__ = ["Leftovers", "Target", "marked_processes", "name_of", "role_of"]

_MARK = "SECURE_RUNNER_CHAOS"
_PARTY, _DEALER, _WORKER = "secure_runner.party", "secure_runner.dealer", "_bentoml_impl.worker.service"
_STOP_TIMEOUT_S = 30.0
_WAITING = 3
"""Processes of a party beside the one in session: in reserve, standing by, with the runner that stands by."""
_SERVICES = ("runner", "service")
_LISTENS = "0A"
"""State of a listening socket in /proc/net/tcp."""


@dataclass(frozen=True)
class Leftovers:
    """What a stopped server left behind."""

    orphans: Sequence[str]
    ports: Sequence[int]
    graceful: bool
    """Whether it ended on SIGTERM by itself."""


class Target:
    """``bentoml serve`` of an embedded Bento.

    Args:
        bento: its tag.
        environment: of the server.
        log: where it writes.
        prefix: what runs a command on its host; nothing for this one.
        address: of its host, for clients.
    """

    def __init__(
        self,
        bento: str,
        environment: Mapping[str, str],
        log: Path,
        prefix: Sequence[str] = (),
        address: str = "127.0.0.1",
    ) -> None:
        self._mark = secrets.token_hex(8)
        self._prefix = list(prefix)
        self._ports: set[int] = set()
        self.log = log
        port = _free_port()
        self.url = f"http://{address}:{port}"
        command = [*prefix, sys.executable, "-m", "bentoml", "serve", bento, "--host", address]
        with log.open("wb") as output:
            self._popen = subprocess.Popen(
                [*command, "--port", str(port), "--timeout-graceful-shutdown", "5"],
                cwd=log.parent,
                env={**environment, _MARK: self._mark},
                stdout=output,
                stderr=output,
            )

    def processes(self) -> dict[str, list[psutil.Process]]:
        """Role → processes, oldest first: ``party NAME``, ``dealer``, ``runner``, ``service``, ``server``."""
        server = psutil.Process(self._popen.pid)
        found: dict[str, list[psutil.Process]] = {"server": [server]}
        for process in server.children(recursive=True):
            role = role_of(process)
            if role is not None:
                found.setdefault(role, []).append(process)
        for same in found.values():
            same.sort(key=_started_s)
        return found

    def in_session(self) -> dict[str, psutil.Process]:
        """Party → its process in session: the oldest of the runner that serves, which is the older one."""
        found = self.processes()
        runner = found["runner"][0].pid
        return {
            role.removeprefix("party "): own[0]
            for role, processes in found.items()
            if role.startswith("party ") and (own := [p for p in processes if _parent(p) == runner])
        }

    def standing_by(self) -> list[psutil.Process]:
        """All others: in the session in reserve, or standing by, beside it or with the other runner."""
        in_session = {process.pid for process in self.in_session().values()}
        return [
            process
            for role, processes in self.processes().items()
            if role.startswith("party ")
            for process in processes
            if process.pid not in in_session
        ]

    def workers_standing_by(self) -> list[psutil.Process]:
        """The younger worker of each service: it serves only once the older one is gone."""
        found = self.processes()
        return [worker for role in _SERVICES for worker in found.get(role, [])[1:]]

    def has_warm_standbys(self, look_s: float = 0.4) -> bool:
        """Whether all processes that wait are there, workers too, and none of them is still getting ready."""
        standing_by, workers = self.standing_by(), self.workers_standing_by()
        if len(standing_by) < _WAITING * len(self.in_session()) or len(workers) < len(_SERVICES):
            return False
        standing_by += workers
        try:
            before = [sum(process.cpu_times()[:2]) for process in standing_by]
            time.sleep(look_s)
            after = [sum(process.cpu_times()[:2]) for process in standing_by]
        except psutil.Error:
            return False
        return sum(after) - sum(before) < 0.05

    def note_ports(self) -> None:
        """Remember which ports the server's processes listen on now."""
        for process in [p for same in self.processes().values() for p in same]:
            with contextlib.suppress(psutil.Error):
                connections = process.net_connections(kind="tcp")
                self._ports |= {c.laddr.port for c in connections if c.status == psutil.CONN_LISTEN}

    def stop(self) -> Leftovers:
        """Stop serving as an operator does; then look what is left."""
        with contextlib.suppress(psutil.Error):
            self.note_ports()
        self._popen.send_signal(signal.SIGTERM)
        graceful = True
        try:
            self._popen.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            graceful = False
            self._popen.kill()
            self._popen.wait()
        time.sleep(1.0)
        orphans = marked_processes(_MARK, self._mark)
        ports = sorted(self._ports & self._listening())
        names = [name_of(process) for process in orphans]
        for process in orphans:
            with contextlib.suppress(psutil.Error):
                process.kill()
        return Leftovers(names, ports, graceful)

    def _listening(self) -> set[int]:
        command = [*self._prefix, "cat", "/proc/net/tcp", "/proc/net/tcp6"]
        lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
        fields = [line.split() for line in lines]
        return {int(f[1].rpartition(":")[2], 16) for f in fields if len(f) > 3 and f[3] == _LISTENS}


def role_of(process: psutil.Process) -> str | None:
    """What a process of a server is for; None if it is none of ours."""
    try:
        command = process.cmdline()
    except psutil.Error:
        return None
    if _PARTY in command:
        return f"party {command[command.index(_PARTY) + 1]}"
    if _DEALER in command:
        return "dealer"
    if _WORKER in command:
        # The service that clients talk to is the one that listens on a TCP socket: it gets the metrics too.
        return "runner" if any("secure-runner-" in part for part in command) else "service"
    return None


def marked_processes(name: str, value: str) -> list[psutil.Process]:
    """Every living process whose environment has this variable, whoever its parent is."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(name) == value:
                found.append(process)
    return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]


def _started_s(process: psutil.Process) -> float:
    try:
        return process.create_time()
    except psutil.Error:
        return float("inf")


def _parent(process: psutil.Process) -> int | None:
    try:
        return process.ppid()
    except psutil.Error:
        return None


def name_of(process: psutil.Process) -> str:
    """What it is for or called, its id and its state."""
    with contextlib.suppress(psutil.Error):
        return f"{role_of(process) or process.name()} ({process.pid}, {process.status()})"
    return str(process.pid)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
