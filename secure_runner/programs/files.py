"""A program on disk: ``manifest.json`` and one file per executable, every byte covered by a digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from secure_runner.errors import ProgramError
from secure_runner.programs.manifest import Manifest

__all__ = ["MANIFEST_FILE", "read_program", "write_program"]

MANIFEST_FILE = "manifest.json"


def write_program(directory: Path, manifest: Manifest, files: Mapping[str, bytes]) -> None:
    """Write a program. ``files`` maps the manifest's file names to their bytes."""
    for name, content in files.items():
        (directory / name).write_bytes(content)
    text = json.dumps(manifest.model_dump(mode="json"), indent=1, sort_keys=True)
    (directory / MANIFEST_FILE).write_text(text + "\n")


def read_program(directory: Path) -> Manifest:
    """Read a program's manifest and check every executable against its digest.

    Raises:
        ProgramError: a file is missing, malformed or changed.
    """
    path = directory / MANIFEST_FILE
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ProgramError(
            f"no {MANIFEST_FILE} in {directory}: this is not a program of secure-runner"
        ) from None
    except ValidationError as error:
        fields = ", ".join(sorted({".".join(str(p) for p in problem["loc"]) for problem in error.errors()}))
        raise ProgramError(
            f"{path} is not a manifest that this version reads; wrong fields: {fields}"
        ) from None
    for entry in manifest.executables:
        _check_file(directory, entry.file, entry.sha256)
        if entry.transcript_file is not None and entry.transcript_sha256 is not None:
            _check_file(directory, entry.transcript_file, entry.transcript_sha256)
    return manifest


def _check_file(directory: Path, file: str, expected: str) -> None:
    path = directory / file
    if path.parent != directory or not path.is_file():
        raise ProgramError(f"the manifest names {file!r}, which is not in {directory}")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise ProgramError(f"{file} has SHA-256 {found}, the manifest says {expected}: it was changed")
