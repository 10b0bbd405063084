"""``bentoml build`` and ``bentoml serve``, as a user types them, in a model store of the demo's own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

__all__ = ["build", "parties_of", "serve"]

ROOT = Path(__file__).resolve().parents[2]
_READY_TIMEOUT_S = 240.0
_STOP_TIMEOUT_S = 20.0


def build(program: str, environment: Mapping[str, str]) -> str:
    """Build a Bento for a program; returns its tag.

    Raises:
        RuntimeError: BentoML refused.
    """
    command = [*_bentoml(), "build", "--arg", f"model={program}", "-o", "tag"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"bentoml build failed:\n{done.stdout}\n{done.stderr}")
    return done.stdout.strip().rpartition("__tag__:")[2]


@contextmanager
def serve(bento: str, environment: Mapping[str, str], log: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Serve a Bento until the block ends; gives its URL and process once it is ready.

    Raises:
        RuntimeError: it ended or was not ready in time, or left a process behind.
    """
    port = _free_port()
    command = [*_bentoml(), "serve", bento, "--port", str(port), "--timeout-graceful-shutdown", "5"]
    with log.open("wb") as output:
        server = subprocess.Popen(command, cwd=log.parent, env=environment, stdout=output, stderr=output)
    processes: list[psutil.Process] = []
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(url, server, log)
        processes = psutil.Process(server.pid).children(recursive=True)
        yield url, psutil.Process(server.pid)
    finally:
        processes += psutil.Process(server.pid).children(recursive=True) if server.poll() is None else []
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            server.kill()
        _, left = psutil.wait_procs(processes, timeout=5)
        for process in left:
            process.kill()
    if left:
        raise RuntimeError(f"{len(left)} processes outlived the server: {left}")


def parties_of(server: psutil.Process) -> dict[str, int]:
    """Party name → process id, of the parties in session (the oldest of each; the others wait)."""
    found: dict[str, tuple[float, int]] = {}
    for process in server.children(recursive=True):
        try:
            command, started = process.cmdline(), process.create_time()
        except psutil.Error:
            # It has ended a moment ago.
            continue
        if "secure_runner.party" in command:
            party = command[command.index("secure_runner.party") + 1]
        elif "secure_runner.dealer" in command:
            party = "dealer"
        else:
            continue
        if party not in found or started < found[party][0]:
            found[party] = (started, process.pid)
    return {party: pid for party, (_, pid) in found.items()}


def _bentoml() -> list[str]:
    return [sys.executable, "-m", "bentoml"]


def _wait_until_ready(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + _READY_TIMEOUT_S
    while time.monotonic() < until:
        if server.poll() is not None:
            break
        try:
            if httpx.get(f"{url}/readyz", timeout=3).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.3)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
    raise RuntimeError(f"the server was not ready within {_READY_TIMEOUT_S:.0f} s. Its log ends:\n{tail}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment_of(home: Path) -> dict[str, str]:
    """This environment with a BentoML home of its own."""
    return os.environ | {"BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"}
