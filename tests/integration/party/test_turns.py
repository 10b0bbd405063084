"""Two runtimes in turns with the real protocol: what a stock lasts is learned, and then nobody is held up."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from prometheus_client import REGISTRY

from converters import ConvertedModel, TensorSpec
from secure_runner.programs.build import build_program
from secure_runner.programs.files import write_program
from secure_runner.sessions.keeper import PartyFiles

ROWS, WIDTH = 64, 320
BATCHES_AFTER = 14
ATOL = 2e-3


@pytest.fixture(scope="module")
def wide_files(tmp_path_factory):
    """A layer so wide that a dozen batches use up what is in stock."""
    x, y = TensorSpec("x", "float32", (None, 4)), TensorSpec("y", "float32", (None, WIDTH))
    weights = np.random.default_rng(1).normal(size=(4, WIDTH)).astype(np.float32)
    model = ConvertedModel(
        params={"w": weights},
        inputs=(x,),
        outputs=(y,),
        private_inputs=(x,),
        private_outputs=(y,),
        private_predict=lambda params, x: (jnp.maximum(x @ params["w"], 0),),
    )
    directory = tmp_path_factory.mktemp("wide")
    manifest, files = build_program("wide", model, protocol="cheetah", batch_sizes=(ROWS,), self_check=False)
    (directory / "program").mkdir()
    write_program(directory / "program", manifest, files)
    np.savez(directory / "params.npz", w=weights)
    return PartyFiles(directory / "program", directory / "params.npz"), weights


def test_after_the_first_no_batch_waits_for_oblivious_transfers(
    wide_files, deploy, replace_processes, tmp_path
):
    """Both runtimes answer rightly; the one that is not serving makes its stock."""
    files, weights = wide_files
    notes = tmp_path / "notes"
    notes.touch()
    replace_processes("data-owner", Path(__file__).with_name("noting_party.py"), str(notes), first=1)
    deployed = deploy(files=files, protocol="cheetah")
    draw = np.random.default_rng(2)

    def count(event: str) -> int:
        return sum(line.startswith(event) for line in notes.read_text().splitlines())

    def answer() -> None:
        # However slow the machine is: what is to be seen is the order, not the speed.
        deployed.wait_until(lambda: count("due") == count("prepared"), 60)
        rows = draw.normal(size=(ROWS, 4)).astype(np.float32)
        expected = np.maximum(rows @ weights, 0)
        np.testing.assert_allclose(deployed.predict(rows), expected, rtol=0, atol=ATOL)

    while not count("prepared"):
        answer()
    learned = len(notes.read_text().splitlines())
    for _ in range(BATCHES_AFTER):
        answer()
    after = notes.read_text().splitlines()[learned:]
    assert {"take 0", "take 1"} <= set(after)
    prepared = [line.split()[1] for line in after if line.startswith("prepared")]
    assert prepared
    stocked = [line.split()[1] for line in after if line.startswith("stocked")]
    assert stocked == prepared, "a batch was held up"
    answer()
    deployed.wait_until(lambda: _stocks("in_run") == 1 and _stocks("ahead") == count("prepared"), 10)


def _stocks(made):
    return REGISTRY.get_sample_value("secure_runner_transfer_stocks", {"lane": "0", "made": made})
