"""A scoring job on disk: what it scores, and the chunks that are done."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from secure_runner.errors import InputError
from secure_runner.http.npy import write_npz
from secure_runner.http.types import Arrays

__all__ = ["Job", "file_sha256"]

_READ_BYTES = 2**20


def file_sha256(path: Path) -> str:
    """Digest of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


class Job:
    """Chunks of predictions beside the output file, until all are there.

    The folder ``<output>.partial`` holds one .npz for each chunk done and the job's description. A job goes
    on only with the same rows, program and chunks that it began with; anything else would mix predictions.
    """

    def __init__(
        self, output: Path, *, rows: int, chunk_rows: int, program_digest: str, description: dict[str, str]
    ) -> None:
        self.rows = rows
        self.chunk_rows = chunk_rows
        self.program_digest = program_digest
        self._description = {
            **description,
            "program": program_digest,
            "rows": str(rows),
            "chunk_rows": str(chunk_rows),
        }
        self._folder = output.with_name(f"{output.name}.partial")
        canonical = json.dumps(self._description, sort_keys=True).encode()
        self.job_id = hashlib.sha256(canonical).hexdigest()[:16]

    def open(self, *, restart: bool) -> None:
        """Begin, or go on with what is there.

        Raises:
            InputError: there is another job's folder.
        """
        if restart:
            self.discard()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        described = self._folder / "job.json"
        if not described.exists():
            self._replace(described, json.dumps(self._description, indent=1).encode())
            return
        try:
            found = json.loads(described.read_text())
        except ValueError:
            found = {}
        differing = sorted(key for key in self._description if found.get(key) != self._description[key])
        if differing:
            raise InputError(
                f"{self._folder} belongs to a job that differs in {', '.join(differing)}; "
                "finish that one first, or discard it with --restart"
            )

    def discard(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def chunks(self) -> Iterator[tuple[int, int, int]]:
        """Index, first row and end of every chunk."""
        for index, start in enumerate(range(0, self.rows, self.chunk_rows)):
            yield index, start, min(start + self.chunk_rows, self.rows)

    def is_done(self, index: int) -> bool:
        """Whether a chunk's predictions are on disk."""
        return self._path(index).exists()

    def save(self, index: int, outputs: Arrays) -> None:
        """Keep a chunk's predictions."""
        self._replace(self._path(index), write_npz(outputs))

    def collect(self) -> Arrays:
        """All predictions, in the order of the rows."""
        parts: list[Arrays] = []
        for index, _start, _end in self.chunks():
            with np.load(self._path(index), allow_pickle=False) as archive:
                parts.append({name: archive[name] for name in archive.files})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _path(self, index: int) -> Path:
        return self._folder / f"chunk-{index:08d}.npz"

    def _replace(self, path: Path, content: bytes) -> None:
        temporary = path.with_suffix(".writing")
        temporary.write_bytes(content)
        os.replace(temporary, path)
