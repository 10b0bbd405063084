"""Clients of a served model, in a process of their own: closed loops over keep-alive connections.

``python -m benchmarks.load URL ROWS.npy EXPECTED.npy HEADERS.json`` reads commands from standard input, one
JSON object a line, and answers each with one line.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import async_timeout
import numpy as np
import psutil

__all__ = ["Load", "LoadResult"]

_TOLERANCE = 2e-2
_TIMEOUT_S = 60.0


@dataclass
class LoadResult:
    """What the clients of one command saw."""

    latencies_ms: list[float] = field(default_factory=list)
    wall_s: float = 0.0
    failed: int = 0
    """Requests that were answered with an error."""
    wrong: int = 0
    """Answers that differ from plaintext by more than the tolerance."""

    @property
    def per_second(self) -> float:
        """Right answers a second."""
        return len(self.latencies_ms) / self.wall_s

    def percentile(self, percent: float) -> float:
        """Latency in ms."""
        return float(np.percentile(self.latencies_ms, percent))


class Load:
    """The client process, seen from the benchmark.

    Args:
        url: of the service.
        rows: features; requests take some of them.
        expected: what the service should say of each.
        directory: where files for the clients are written.
        headers: of every request.
        prefix: command that runs another where the clients should be.
    """

    def __init__(
        self,
        url: str,
        rows: Any,
        expected: Any,
        directory: Path,
        *,
        headers: Mapping[str, str] = {},
        prefix: Sequence[str] = (),
    ) -> None:
        np.save(directory / "rows.npy", rows)
        np.save(directory / "expected.npy", expected)
        (directory / "headers.json").write_text(json.dumps(headers))
        command = [*prefix, sys.executable, "-m", "benchmarks.load", url]
        files = [str(directory / name) for name in ("rows.npy", "expected.npy", "headers.json")]
        self._process = subprocess.Popen(
            [*command, *files], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.process = psutil.Process(self._process.pid)

    def run(self, *, clients: int, requests: int, rows: int = 1) -> LoadResult:
        """Each of ``clients`` sends ``requests`` requests of ``rows`` rows, one after the other.

        Raises:
            RuntimeError: an answer was wrong, or the client process ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([clients, requests, rows]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the client process ended")
        result = LoadResult(**json.loads(line))
        if result.wrong or not result.latencies_ms:
            raise RuntimeError(f"{result.wrong} wrong answers, {len(result.latencies_ms)} right ones")
        return result

    def __enter__(self) -> Load:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()


def main(url: str, rows_file: str, expected_file: str, headers_file: str) -> None:
    """Serve commands until standard input ends."""
    import uvloop

    rows, expected = np.load(rows_file), np.load(expected_file)
    headers = json.loads(Path(headers_file).read_text())
    uvloop.install()
    asyncio.run(_serve(url, rows, expected, headers))


async def _serve(url: str, rows: Any, expected: Any, headers: Mapping[str, str]) -> None:
    address = urlsplit(url)
    assert address.hostname is not None
    connections: list[_Connection] = []
    extra = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    while line := await asyncio.to_thread(sys.stdin.readline):
        clients, requests, count = json.loads(line)
        while len(connections) < clients:
            streams = await asyncio.open_connection(address.hostname, address.port)
            connections.append(_Connection(*streams, extra))
        shares = [_share(rows, index, count) for index in range(clients)]
        started = time.perf_counter()
        answers = await asyncio.gather(
            *(_client(connections[index], rows[share], requests) for index, share in enumerate(shares))
        )
        result = LoadResult(wall_s=time.perf_counter() - started)
        for share, own in zip(shares, answers, strict=True):
            _check(result, own, expected[share])
        for connection in connections:
            connection.close()
        connections.clear()
        print(json.dumps(vars(result)), flush=True)


class _Answer(NamedTuple):
    latency_ms: float
    status: int
    body: bytes


@dataclass(frozen=True)
class _Connection:
    """One keep-alive connection. A client library would take more of these cores than the service does."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    headers: str
    """More lines of each request's head."""

    async def post(self, body: bytes) -> tuple[int, bytes]:
        """Status and body of the answer."""
        head = (
            "POST /predict HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n{self.headers}\r\n"
        )
        self.writer.write(head.encode() + body)
        answer = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        length = int(answer.partition(b"content-length:")[2].partition(b"\r\n")[0])
        return int(answer.split(b" ", 2)[1]), await self.reader.readexactly(length)

    def close(self) -> None:
        self.writer.close()


def _share(rows: Any, client: int, count: int) -> slice:
    """The rows that a client sends, over and over."""
    at = (7 * client) % (len(rows) - count + 1)
    return slice(at, at + count)


async def _client(connection: _Connection, rows: Any, requests: int) -> list[_Answer]:
    body = json.dumps({"inputs": rows.tolist()}).encode()
    answers = []
    for _ in range(requests):
        started = time.perf_counter()
        async with async_timeout.timeout(_TIMEOUT_S):
            status, answer = await connection.post(body)
        answers.append(_Answer(1000 * (time.perf_counter() - started), status, answer))
    return answers


def _check(result: LoadResult, answers: Sequence[_Answer], expected: Any) -> None:
    """Off the clock: the clients and what they ask share their cores."""
    for latency_ms, status, body in answers:
        if status != 200:
            result.failed += 1
            continue
        outputs = np.asarray(json.loads(body)["outputs"])
        if outputs.shape == expected.shape and np.allclose(outputs, expected, atol=_TOLERANCE):
            result.latencies_ms.append(latency_ms)
        else:
            result.wrong += 1


if __name__ == "__main__":
    main(*sys.argv[1:5])
