"""Workers of a real ``bentoml serve`` that die or are stopped: another one has been standing by."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from serving import HTTP_YAML, Served, serve

from secure_runner.lifetime import _WORKERS


@pytest.fixture(scope="module", params=["a machine", "a container"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """In a container BentoML itself starts no worker again."""
    directory = tmp_path_factory.mktemp("workers")
    (directory / "http.yaml").write_text(HTTP_YAML)
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "a container":
            patch.setenv("BENTOML_CONTAINERIZED", "true")
        with serve(directory) as service:
            yield service


def _workers(service: Served) -> list[psutil.Process]:
    """Oldest first: the first serves."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd", "create_time"]):
        command = process.info["cmdline"] or []
        if process.info["cwd"] == str(service.directory) and any(
            part.startswith(_WORKERS) for part in command
        ):
            found.append(process)
    return sorted(found, key=psutil.Process.create_time)


def _wait_until(condition: Callable[[], bool], service: Served) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until, service.log
        time.sleep(0.05)


def _answers(service: Served) -> bool:
    try:
        response = httpx.post(f"{service.url}/predict", json={"inputs": [[1, 2, 3]]}, timeout=2)
    except httpx.TransportError:
        return False
    assert response.json() == {"outputs": [6.0]}
    return True


def _standing_by(service: Served) -> psutil.Process:
    """The second worker, once it stands by: its start has begun, and goes on when its turn comes."""
    hook = "startup hook: settle"
    _wait_until(lambda: service.log.count(f"Running {hook}") > service.log.count(f"async {hook}"), service)
    _, second = _workers(service)
    return second


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_the_worker_that_stands_by_takes_over(served: Served, number: signal.Signals) -> None:
    """The one before is gone, also if it was only stopped, and a new one stands by after it."""
    second = _standing_by(served)
    first = _workers(served)[0]
    os.kill(first.pid, number)
    _wait_until(lambda: not first.is_running() or first.status() == psutil.STATUS_ZOMBIE, served)
    _wait_until(lambda: _answers(served), served)
    assert _workers(served)[0] == second
    _standing_by(served)


def test_a_server_ends_with_a_worker_standing_by(served: Served) -> None:
    """On SIGTERM, as an orchestrator sends it. It comes last."""
    server = _standing_by(served).parent()
    assert server is not None
    everything = [server, *server.children(recursive=True)]
    server.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs(everything, timeout=15)
    assert not alive
    assert not list((served.directory / "tmp").glob("secure-runner-workers-*"))
