"""Manifests and programs on disk: one digest covers everything, and nothing changed is read."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from converters import from_flax
from secure_runner.errors import ProgramError
from secure_runner.programs.build import build_program
from secure_runner.programs.files import MANIFEST_FILE, read_program, write_program
from secure_runner.programs.manifest import ExecutableSpec, Manifest, NumericSpec, RunCost, TensorSpec

CODE = {"batch_1.spu": b"one", "batch_8.spu": b"eight"}


def _manifest(**changes: object) -> Manifest:
    fields: dict[str, object] = {
        "name": "credit",
        "protocol": "aby3",
        "numeric": NumericSpec(),
        "inputs": (TensorSpec(name="x", dtype="float32", shape=(None, 3)),),
        "outputs": (TensorSpec(name="y", dtype="float32", shape=(None,)),),
        "private_inputs": (TensorSpec(name="x", dtype="float32", shape=(None, 3)),),
        "private_outputs": (TensorSpec(name="y", dtype="float32", shape=(None,)),),
        "params": (TensorSpec(name="w", dtype="float32", shape=(3,)),),
        "executables": tuple(
            ExecutableSpec(batch_size=size, file=file, sha256=hashlib.sha256(code).hexdigest())
            for size, (file, code) in zip((1, 8), CODE.items(), strict=True)
        ),
        "versions": {"spu": "1", "jax": "2"},
    }
    return Manifest.model_validate(fields | changes)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    write_program(tmp_path, _manifest(), CODE)
    return tmp_path


def test_a_program_is_read_as_it_was_written(program):
    """Manifest and digest come back."""
    assert read_program(program) == _manifest()
    assert read_program(program).digest == _manifest().digest


def test_the_digest_does_not_depend_on_how_the_file_is_laid_out(program):
    """Order of keys and white space are not part of what parties agree on."""
    document = json.loads((program / MANIFEST_FILE).read_text())
    backwards = {key: document[key] for key in sorted(document, reverse=True)}
    backwards["versions"] = {"spu": "1", "jax": "2"}
    (program / MANIFEST_FILE).write_text(json.dumps(backwards, separators=(",", ":")))
    assert read_program(program).digest == _manifest().digest


def test_the_digest_is_the_same_in_every_process():
    """No hash of Python's own and no order of a set is in it."""
    script = (
        "import sys; from secure_runner.programs.manifest import Manifest; "
        "print(Manifest.model_validate_json(sys.argv[1]).digest)"
    )
    found = [
        subprocess.run(
            [sys.executable, "-c", script, _manifest().model_dump_json()],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    ]
    assert found == [_manifest().digest] * 2


def test_every_field_is_covered_by_the_digest():
    """A manifest that differs anywhere has another digest."""
    other_code = ExecutableSpec(batch_size=1, file="batch_1.spu", sha256=hashlib.sha256(b"x").hexdigest())
    changes = {
        "name": "debit",
        "protocol": "cheetah",
        "numeric": NumericSpec(fraction_bits=16),
        "inputs": (),
        "outputs": (),
        "private_inputs": (),
        "private_outputs": (),
        "params": (),
        "encode": ({"op": "scale", "inputs": ("x",), "outputs": ("x",)},),
        "decode": ({"op": "sigmoid", "inputs": ("y",), "outputs": ("y",)},),
        "input_ranges": {"x": {"low": 0.0, "high": 1.0}},
        "rewrites": ("peel",),
        "statements": ("the topology is public",),
        "executables": (other_code, _manifest().executables[1]),
        "cost": RunCost(batch_size=1, rounds=3, sent_bytes=4, compute_s=0.5),
        "versions": {"spu": "1", "jax": "3"},
    }
    assert set(changes) == set(Manifest.model_fields) - {"format"}
    digests = {_manifest(**{field: value}).digest for field, value in changes.items()}
    assert len(digests | {_manifest().digest}) == len(changes) + 1


def test_the_ladder_is_ascending():
    """In whatever order the executables are listed."""
    assert _manifest(executables=_manifest().executables[::-1]).batch_sizes == (1, 8)


@pytest.mark.parametrize(("protocol", "sizes"), [("aby3", (1, 8, 32, 64)), ("cheetah", (1, 8, 32))])
def test_a_program_that_is_given_no_ladder_has_that_of_its_protocol(protocol, sizes):
    """Where a batch costs little more than a row it goes further up."""
    weights = {"w": np.ones((4, 2), np.float32)}
    model = from_flax(lambda variables, x: x @ variables["w"], weights, np.ones((1, 4), np.float32))
    manifest, _ = build_program("m", model, protocol=protocol, self_check=False)
    assert manifest.batch_sizes == sizes


def test_a_changed_executable_is_refused(program):
    """One bit is enough; the message names the file."""
    (program / "batch_8.spu").write_bytes(b"eighu")
    with pytest.raises(ProgramError, match=r"batch_8\.spu.*changed"):
        read_program(program)


def test_a_missing_executable_is_refused(program):
    """Before anything is served."""
    (program / "batch_1.spu").unlink()
    with pytest.raises(ProgramError, match=r"batch_1\.spu"):
        read_program(program)


@pytest.mark.parametrize("file", ["../outside.spu", "/etc/hostname", "sub/inside.spu"])
def test_an_executable_outside_the_program_is_refused(program, file):
    """A manifest from another party cannot make this one read its other files."""
    for path in (program.parent / "outside.spu", program / "sub" / "inside.spu"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"one")
    document = json.loads((program / MANIFEST_FILE).read_text())
    document["executables"][0]["file"] = file
    (program / MANIFEST_FILE).write_text(json.dumps(document))
    with pytest.raises(ProgramError, match="not in"):
        read_program(program)


def test_a_folder_without_a_manifest_is_no_program(tmp_path):
    """The message says what was looked for, and where."""
    with pytest.raises(ProgramError, match=MANIFEST_FILE):
        read_program(tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"format": 2}, "format"),
        ({"protocol": "REF2K"}, "protocol"),
        ({"extra": 1}, "extra"),
        ({"params": 7}, "params"),
    ],
)
def test_a_manifest_of_another_kind_is_refused_by_field(program, change, named):
    """A newer format or an unknown field is not guessed at."""
    document = json.loads((program / MANIFEST_FILE).read_text()) | change
    (program / MANIFEST_FILE).write_text(json.dumps(document))
    with pytest.raises(ProgramError, match=named):
        read_program(program)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe"])
def test_a_malformed_manifest_is_refused(program, content):
    """As a ProgramError, like everything that is wrong with a program."""
    (program / MANIFEST_FILE).write_bytes(content)
    with pytest.raises(ProgramError):
        read_program(program)
