"""One worker serves, the other waits for its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from secure_runner.standby import LOCK_VARIABLE

_WORKER = """
import asyncio, sys
from secure_runner.standby import stand_by

async def main():
    turn = await stand_by(lambda: print("waits", flush=True))
    turn.serves()
    print("serves", flush=True)
    await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


@pytest.fixture
def worker(tmp_path):
    started: list[subprocess.Popen[str]] = []

    def start(lock: str = str(tmp_path / "lock")) -> subprocess.Popen[str]:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        environment = os.environ | {LOCK_VARIABLE: lock}
        started.append(subprocess.Popen([sys.executable, "-c", _WORKER], env=environment, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_worker_takes_over_as_soon_as_the_other_is_gone(worker, tmp_path):
    """And says so in its turn, for the supervisor; a third one waits for the second."""
    first = worker()
    assert first.stdout.readline() == "serves\n"
    assert (tmp_path / "lock").read_text() == str(first.pid)
    second = worker()
    assert second.stdout.readline() == "waits\n"
    first.kill()
    assert second.stdout.readline() == "serves\n"
    assert (tmp_path / "lock").read_text() == str(second.pid)
    third = worker()
    assert third.stdout.readline() == "waits\n"
    second.stdin.close()
    assert third.stdout.readline() == "serves\n"


def test_a_worker_that_stands_by_ends_when_it_is_told_to(worker):
    """Its server has not started yet and would only note it."""
    first, second = worker(), worker()
    waiting = second if first.stdout.readline() == "serves\n" else first
    if waiting is second:
        assert second.stdout.readline() == "waits\n"
    waiting.send_signal(signal.SIGTERM)
    assert waiting.wait(20) == 0


def test_an_only_worker_waits_for_nobody(worker):
    """As in a server that keeps none in standby."""
    assert worker("").stdout.readline() == "serves\n"
