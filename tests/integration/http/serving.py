"""A small service in a real ``bentoml serve``, for the tests in this folder."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

__all__ = ["HTTP_YAML", "Served", "serve"]

HTTP_YAML = "authentication: none\nmax_body_bytes: 200000\nbody_timeout_s: 1\n"


@dataclass
class Served:
    """A running service."""

    port: int
    directory: Path
    scheme: str = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serve(directory: Path, *options: str, **client: Any) -> Iterator[Served]:
    """A service in a process of its own until the context ends."""
    shutil.copy(Path(__file__).with_name("sum_service.py"), directory)
    port = _free_port()
    (directory / "tmp").mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "BENTOML_HOME": str(directory / "home"),
        "BENTOML_DO_NOT_TRACK": "1",
        "TMPDIR": str(directory / "tmp"),
    }
    address = ["--host", "127.0.0.1", "--port", str(port)]
    command = [sys.executable, "-m", "bentoml", "serve", "sum_service:Sum", *address, *options]
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=directory, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            service = Served(port, directory, "https" if options else "http")
            _wait_until_ready(service, process, **client)
            yield service
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def _wait_until_ready(service: Served, process: subprocess.Popen[bytes], **client: Any) -> None:
    for _ in range(300):
        assert process.poll() is None, service.log
        try:
            if httpx.get(f"{service.url}/readyz", timeout=3, **client).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    pytest.fail(f"not ready in time: {service.log}")
