"""A ladder whose rungs differ in how they answer homomorphic products: one session, two SPU runtimes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from secure_runner.programs.files import read_program, write_program


@pytest.fixture(scope="module")
def deployed(deploy, small_files, tmp_path_factory):
    directory = tmp_path_factory.mktemp("mixed")
    manifest = read_program(small_files.program_dir)
    entries = [
        entry.model_copy(update={"packed_products": entry.batch_size > 1}) for entry in manifest.executables
    ]
    mixed = manifest.model_copy(update={"executables": tuple(entries)})
    names = {name for e in entries for name in (e.file, e.transcript_file) if name is not None}
    write_program(directory, mixed, {name: (small_files.program_dir / name).read_bytes() for name in names})
    return deploy(files=replace(small_files, program_dir=directory), protocol="cheetah")


def test_each_rung_answers_rightly_in_turns(deployed, small_model):
    """The params are in both runtimes, and a batch runs in that of its rung at both parties."""
    for count in (1, 8, 1, 5, 8):
        rows = small_model.rows[:count]
        np.testing.assert_allclose(deployed.predict(rows), small_model.expected(rows), rtol=0, atol=1e-3)
