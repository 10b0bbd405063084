"""How long a process has been stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

from secure_runner.lifetime import StopClock


def _until(condition) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_only_a_stopped_process_is_said_to_be_stopped():
    """One that sleeps, has gone on again, or is gone is not."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        clock = StopClock(process.pid)
        time.sleep(0.05)
        assert clock.look() == 0.0
        process.send_signal(signal.SIGSTOP)
        _until(lambda: clock.look() > 0.2)
        process.send_signal(signal.SIGCONT)
        _until(lambda: clock.look() == 0.0)
        process.send_signal(signal.SIGSTOP)
        _until(lambda: clock.look() > 0.0)
        process.kill()
        process.wait()
        assert clock.look() == 0.0


def test_a_pause_of_the_one_who_looks_does_not_count():
    """After Ctrl-Z and fg both go on, and neither may kill the other for it."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        clock = StopClock(process.pid)
        process.send_signal(signal.SIGSTOP)
        time.sleep(1.0)
        assert clock.look() <= 0.5
        process.kill()
