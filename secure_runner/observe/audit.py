"""The audit log of one party: JSON lines in a hash chain, one for each session, request and batch.

Each line is a JSON object whose ``previous`` is the SHA-256 of the line before it, so that no line can be
changed, removed or put in between without all later ones telling. The chain goes on through restarts and from
one file to the next. What a chain alone cannot show is that its end was cut off: the other party's log does.

An entry is in the kernel's hands before the event it tells of is answered, so a killed process loses none.
It is on the disk (fsync) at the latest a second later, or at once for sessions and refusals: a power failure
can cost the last second of requests and batches.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import orjson

from secure_runner.errors import ConfigError

__all__ = ["FIRST", "AuditIdentity", "AuditLog", "Event", "line_digest"]

_log = logging.getLogger(__name__)
_FILE_BYTES = 64 * 2**20
_SYNC_INTERVAL_S = 1.0
_TAIL_BYTES = 2**16

FIRST = "0" * 64
"""What stands for the previous line before a chain's first."""

Event = Mapping[str, str | int | float | bool | list[str] | None]


@dataclass(frozen=True)
class AuditIdentity:
    """Whose log it is, and about what; stands at the head of each file and after each restart."""

    party: str
    role: str
    cluster: str
    cluster_digest: str
    program: str
    program_digest: str
    parameters: int
    """Number of trained values of the program, which its summary compares rows with."""


def line_digest(line: bytes) -> str:
    """SHA-256 (hex) of one line without its line feed."""
    return hashlib.sha256(line).hexdigest()


class AuditLog:
    """Appends entries to the files ``PARTY-SERIES-NUMBER.jsonl`` of a directory.

    Two processes of the same party (during a rolling change) write two series. A file is readable by its
    user and group alone.

    Args:
        directory: is made if it is missing.
        identity: of this party.
        file_bytes: a file larger than this is followed by a new one.

    Raises:
        ConfigError: the directory cannot be written.
    """

    def __init__(self, directory: Path, identity: AuditIdentity, *, file_bytes: int = _FILE_BYTES) -> None:
        self._directory = directory
        self._identity = identity
        self._file_bytes = file_bytes
        self._mutex = threading.Lock()
        self._previous, self._sequence, self._number = FIRST, 0, 1
        self._lost = 0
        self._unsynced = threading.Event()
        self._closed = threading.Event()
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o750)
            self._lock, self._series = self._take_series()
            self._file = self._go_on()
        except OSError as error:
            raise ConfigError(
                f"the audit directory {directory} cannot be written: {error.strerror}; name another in "
                "SECURE_RUNNER_AUDIT_DIR"
            ) from error
        self._syncing = threading.Thread(target=self._sync_now_and_then, name="audit", daemon=True)
        self._syncing.start()

    @property
    def head(self) -> str:
        """SHA-256 (hex) of the last line: whoever notes it elsewhere can tell if the end is cut off."""
        return self._previous

    @property
    def path(self) -> Path:
        """The file that is being written."""
        return self._path_of(self._number)

    def write(self, event: str, entry: Event, *, durable: bool = False) -> bool:
        """Append one entry. A full disk does not stop the service: the loss is logged and noted in the chain.

        Args:
            event: what happened.
            entry: further fields; never a value of a feature, weight, share or prediction.
            durable: fsync before returning.

        Returns:
            Whether it was written; not once the log is closed.
        """
        with self._mutex:
            if self._closed.is_set():
                return False
            try:
                if self._size >= self._file_bytes:
                    self._rotate()
                self._append(event, entry)
                if durable:
                    os.fsync(self._file)
            except OSError as error:
                self._lost += 1
                _log.error("audit: an entry could not be written to %s: %s", self.path, error.strerror)
                return False
        self._unsynced.set()
        return True

    def close(self) -> None:
        """Bring everything to the disk and let go of the file."""
        with self._mutex:
            if self._closed.is_set():
                return
            self._closed.set()
        self._unsynced.set()
        self._syncing.join()
        with self._mutex:
            os.fsync(self._file)
            os.close(self._file)
            os.close(self._lock)

    # --------------------------------------------------------------------------------------------------------

    def _path_of(self, number: int) -> Path:
        return self._directory / f"{self._identity.party}-{self._series}-{number:06d}.jsonl"

    def _take_series(self) -> tuple[int, int]:
        series = 1
        while True:
            path = self._directory / f".{self._identity.party}-{series}.lock"
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                series += 1
            else:
                return lock, series

    def _go_on(self) -> int:
        """Open the last file of the series, behind its last whole line."""
        pattern = f"{self._identity.party}-{self._series}-*.jsonl"
        files = sorted(self._directory.glob(pattern))
        if not files:
            return self._open_file({})
        self._number = int(files[-1].stem.rpartition("-")[2])
        content_end, last = _last_line(files[-1])
        cut_bytes = files[-1].stat().st_size - content_end
        if last is None and len(files) > 1:
            # A new file had been made and nothing written.
            _, last = _last_line(files[-2])
        if last is not None:
            self._previous, self._sequence = line_digest(last), json.loads(last)["sequence"] + 1
        self._file = self._descriptor(content_end)
        os.ftruncate(self._file, content_end)
        # Half a line is what a power failure leaves; it tells of nothing that can be trusted.
        self._append("opened", asdict(self._identity) | ({"cut_bytes": cut_bytes} if cut_bytes else {}))
        return self._file

    def _rotate(self) -> None:
        os.fsync(self._file)
        old, self._number = self._file, self._number + 1
        self._file = self._open_file({})
        os.close(old)

    def _open_file(self, more: Event) -> int:
        self._file = self._descriptor()
        self._append("opened", asdict(self._identity) | dict(more))
        directory = os.open(self._directory, os.O_RDONLY | os.O_CLOEXEC)
        os.fsync(directory)
        os.close(directory)
        return self._file

    def _descriptor(self, size: int = 0) -> int:
        self._size = size
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def _append(self, event: str, entry: Event) -> None:
        document: dict[str, Any] = {"sequence": self._sequence, "time": _now(), "event": event, **entry}
        if self._lost:
            document["lost_entries"] = self._lost
        document["previous"] = self._previous
        line = orjson.dumps(document)
        if os.write(self._file, line + b"\n") != len(line) + 1:
            os.ftruncate(self._file, self._size)
            raise OSError(0, "only a part of it was written")
        self._size += len(line) + 1
        self._previous = line_digest(line)
        self._sequence += 1
        self._lost = 0

    def _sync_now_and_then(self) -> None:
        while not self._closed.is_set():
            self._unsynced.wait()
            self._unsynced.clear()
            with self._mutex:
                # Synced outside of the lock: whoever writes must not wait for the disk.
                descriptor = os.dup(self._file)
            try:
                os.fsync(descriptor)
            except OSError as error:
                _log.error("audit: %s cannot be brought to the disk: %s", self.path, error.strerror)
            finally:
                os.close(descriptor)
            self._closed.wait(_SYNC_INTERVAL_S)


def _now() -> str:
    now = datetime.fromtimestamp(time.time(), timezone.utc)
    return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _last_line(path: Path) -> tuple[int, bytes | None]:
    """Where the last whole line ends, and the line."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        start = max(0, size - _TAIL_BYTES)
        file.seek(start)
        tail = file.read()
    whole, feed, _ = tail.rpartition(b"\n")
    if not feed:
        return 0, None
    return start + len(whole) + 1, whole.rpartition(b"\n")[2]
