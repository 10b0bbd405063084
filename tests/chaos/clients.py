"""Clients under faults, in a process of their own: closed loops, every answer checked and timed.

``python -m chaos.clients JOB.json`` runs until its standard input ends and prints one event a line. The job
is a file because the process may run on another host of a test network.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["CLEAN", "Event", "Job", "Load"]

ROOT = Path(__file__).resolve().parents[2]
CLEAN = ("429", "503", "504")
"""Refusals that a client is told how to handle."""
_GRACE_S = 5.0
_PAUSE_S = 0.1


@dataclass(frozen=True)
class Job:
    """What the clients do."""

    url: str
    rows_file: str
    expected_file: str
    clients: int = 16
    deadline_s: float = 20.0
    tolerance: float = 2e-2
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Event:
    """One request. Times are those of the machine's monotonic clock."""

    sent_s: float
    answered_s: float
    outcome: str
    """``right``, ``wrong``, ``hang``, ``lost`` (connection), or a status."""


class Load:
    """The client process, seen from the driver."""

    def __init__(self, job: Job, file: Path, prefix: Sequence[str] = ()) -> None:
        file.write_text(json.dumps(vars(job)))
        command = [*prefix, sys.executable, "-m", "chaos.clients", str(file)]
        self._process = subprocess.Popen(
            command, cwd=ROOT / "tests", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.events: list[Event] = []
        self._arrived = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def counts(self) -> Counter[str]:
        """Outcome → requests."""
        return Counter(event.outcome for event in list(self.events))

    def right_after(self, moment_s: float, timeout_s: float) -> Event | None:
        """The first right answer to a request sent after ``moment_s``; None if there is none in time."""
        until, at = time.monotonic() + timeout_s, 0
        while True:
            with self._arrived:
                for event in self.events[at:]:
                    if event.outcome == "right" and event.sent_s >= moment_s:
                        return event
                at = len(self.events)
                left_s = until - time.monotonic()
                if left_s <= 0:
                    return None
                self._arrived.wait(min(left_s, 0.5))

    def wait_for(self, requests: int, timeout_s: float) -> None:
        """Wait until so many requests have ended, or the time is over."""
        until = time.monotonic() + timeout_s
        while len(self.events) < requests and time.monotonic() < until:
            time.sleep(0.2)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._arrived:
                self.events.append(Event(*json.loads(line)))
                self._arrived.notify_all()

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(60)
        self._process.kill()
        self._process.wait()
        self._reader.join()


def main(job_file: str) -> None:
    """Run the job until standard input ends; requests in flight are waited for."""
    import uvloop

    uvloop.install()
    asyncio.run(_run(Job(**json.loads(Path(job_file).read_text()))))


async def _run(job: Job) -> None:
    import aiohttp

    rows, expected = np.load(job.rows_file), np.load(job.expected_file)
    over = asyncio.Event()
    headers = {"content-type": "application/json", "x-request-timeout-s": str(job.deadline_s), **job.headers}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=headers) as session:
        loops = [
            asyncio.create_task(_client(session, job, rows, expected, over, n)) for n in range(job.clients)
        ]
        await asyncio.to_thread(sys.stdin.read)
        over.set()
        await asyncio.gather(*loops)


async def _client(session: Any, job: Job, rows: Any, expected: Any, over: asyncio.Event, number: int) -> None:
    for at in _places(len(rows), number):
        if over.is_set():
            return
        count = 1 + at % 3
        sent_s = time.monotonic()
        outcome = await _ask(session, job, rows[at : at + count], expected[at : at + count])
        sys.stdout.write(json.dumps([sent_s, time.monotonic(), outcome]) + "\n")
        sys.stdout.flush()
        if outcome != "right":
            await asyncio.sleep(_PAUSE_S)


def _places(rows: int, number: int) -> Iterator[int]:
    draw = np.random.default_rng(number)
    while True:
        yield int(draw.integers(0, rows - 3))


async def _ask(session: Any, job: Job, rows: Any, expected: Any) -> str:
    import aiohttp

    limit = aiohttp.ClientTimeout(total=job.deadline_s + _GRACE_S, connect=_GRACE_S)
    try:
        body = json.dumps({"inputs": rows.tolist()})
        async with session.post(f"{job.url}/predict", data=body, timeout=limit) as response:
            answer = await response.read()
    except aiohttp.ConnectionTimeoutError:
        return "lost"
    except asyncio.TimeoutError:
        return "hang"
    except aiohttp.ClientError:
        return "lost"
    if response.status == 503 and "retry-after" not in response.headers:
        return "503 without retry-after"
    if response.status != 200:
        return str(response.status)
    outputs = np.asarray(json.loads(answer)["outputs"])
    close = outputs.shape == expected.shape and np.allclose(outputs, expected, atol=job.tolerance)
    return "right" if close else "wrong"


if __name__ == "__main__":
    main(sys.argv[1])
