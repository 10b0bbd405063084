"""A network between processes of one machine: TCP relays that pass everything on after a delay.

``python -m benchmarks.relay LISTEN:TARGET…`` reads one-way delays in milliseconds, one a line, from standard
input, and answers each with the bytes that it has carried. What is on its way keeps the delay that it entered
with. Bandwidth is not limited.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Mapping
from types import TracebackType

__all__ = ["DelayRelay"]

_CHUNK = 1 << 18


class DelayRelay:
    """A process with a relay for each port."""

    def __init__(self, targets: Mapping[int, int]) -> None:
        """Listen on each key of ``targets`` and connect to the port that it stands for, all on loopback."""
        pairs = [f"{listen}:{target}" for listen, target in targets.items()]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.relay", *pairs],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.delay(0.0)

    def delay(self, one_way_ms: float) -> int:
        """Hold everything for so long from now on; a round trip takes twice that.

        Returns:
            Bytes carried so far, in all directions together.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{one_way_ms}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the relay ended")
        return int(answer)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> DelayRelay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Relays:
    def __init__(self) -> None:
        self._delay_s = 0.0
        self._carried = 0

    async def run(self, pairs: Mapping[int, int]) -> None:
        for listen, target in pairs.items():
            await asyncio.start_server(lambda r, w, t=target: self._connect(r, w, t), "127.0.0.1", listen)
        lines = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
        )
        while line := await lines.readline():
            self._delay_s = float(line) / 1000
            print(self._carried, flush=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: int) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target)
        except OSError:  # the party is not up yet: its peer tries again
            writer.close()
            return
        await asyncio.gather(self._pass(reader, far_writer), self._pass(far_reader, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """In order, each chunk when its time has come; reading never waits for writing."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        async def write() -> None:
            while True:
                due_s, data = await queue.get()
                if (wait_s := due_s - loop.time()) > 0:
                    await asyncio.sleep(wait_s)
                if not data:
                    break
                writer.write(data)
            with contextlib.suppress(OSError):
                writer.close()

        writing = asyncio.create_task(write())
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                self._carried += len(data)
                queue.put_nowait((loop.time() + self._delay_s, data))
        queue.put_nowait((loop.time() + self._delay_s, b""))
        await writing


if __name__ == "__main__":
    asyncio.run(
        _Relays().run({int(l): int(t) for l, t in (pair.split(":") for pair in sys.argv[1:])})  # noqa: E741
    )
