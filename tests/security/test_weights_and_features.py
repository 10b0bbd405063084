"""Weights never leave the model owner, features never the data owner: planted, and looked for everywhere."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from converters import ConvertedModel
from examples.demo import memory
from secure_runner.errors import LeakError
from secure_runner.programs.build import build_program

FRACTION_BITS = 18
STRETCH = 8


def _forms(value: float) -> list[bytes]:
    """How one number could stand in a file: floats of each width and byte order, fixed point, text."""
    half, single = np.float16(value), np.float32(value)
    floats = [dtype.tobytes() for number in (single, np.float64(single), half) for dtype in _orders(number)]
    fixed = np.int64(round(float(single) * 2**FRACTION_BITS))
    text = [
        f"{single:.5e}",
        f"{single:.6f}",
        f"{single:.7f}",
        repr(float(single))[:9],
        single.tobytes().hex(),
    ]
    text += [f"{single.view(np.uint32):08x}", f"{single.view(np.uint32):08X}", str(fixed)]
    # Two bytes are found by chance anywhere.
    return [form for form in (*floats, *_order_bytes(fixed), *(t.encode() for t in text)) if len(form) > 2]


def _orders(number: np.floating) -> tuple[np.ndarray, np.ndarray]:
    array = np.asarray(number)
    return array, array.astype(array.dtype.newbyteorder(">"))


def _order_bytes(number: np.integer) -> list[bytes]:
    return [array.tobytes() for array in _orders(number)]  # type: ignore[arg-type]


def _stretches(array: np.ndarray) -> list[bytes]:
    """The first eight numbers in each binary form: long enough not to be anywhere by chance."""
    row = np.ascontiguousarray(array, np.float32).ravel()[:STRETCH]
    fixed = np.round(row.astype(np.float64) * 2**FRACTION_BITS).astype(np.int64)
    return [
        *(row.astype(dtype).tobytes() for dtype in ("<f4", "<f8", "<f2", ">f4", ">f8")),
        fixed.tobytes(),
        fixed.astype(">i8").tobytes(),
    ]


# The program entry ---------------------------------------------------------------------------------------


def _holding(directory: Path, needles: list[bytes]) -> set[str]:
    return {
        path.name
        for path in directory.rglob("*")
        if path.is_file()
        for content in [path.read_bytes()]
        if any(needle in content for needle in needles)
    }


def test_no_weight_is_in_any_file_of_a_program(small_model, small_files):
    """Each of the 82 trained values, in every width, byte order, fixed point and as text."""
    needles = [
        form for value in small_model.model.params.values() for w in value.ravel() for form in _forms(w)
    ]
    assert len(needles) > 82 * 10
    assert _holding(small_files.program_dir, needles) == set()


def test_the_search_finds_weights_where_they_are(small_model, small_files):
    """The params hold every one of them, and a program file with one planted in any form is found."""
    params = small_files.params_file.read_bytes()
    values = [w for value in small_model.model.params.values() for w in value.ravel()]
    assert all(np.float32(w).tobytes() in params for w in values)


@pytest.mark.parametrize("form", range(8))
def test_the_search_finds_each_form(tmp_path, small_model, form):
    """The test before the last one can fail."""
    weight = small_model.model.params["out/bias"][0]
    forms = _forms(weight)
    (tmp_path / "batch_1.spu").write_bytes(b"pphlo.constant" + forms[form % len(forms)] + b"tensor")
    assert _holding(tmp_path, forms) == {"batch_1.spu"}


def test_two_trainings_give_the_same_executables(small_model):
    """Byte for byte, and the same digest: a program tells the architecture and nothing of the training."""
    other = type(small_model).make(seed=99)
    first, files = build_program("small", small_model.model, protocol="aby3", batch_sizes=(1,))
    second, other_files = build_program("small", other.model, protocol="aby3", batch_sizes=(1,))
    assert any((small_model.model.params[n] != other.model.params[n]).all() for n in other.model.params)
    assert files == other_files
    assert first.digest == second.digest


def test_a_model_that_closes_over_a_weight_is_not_built(small_model):
    """As an array or as a number, the build stops before there is a program."""
    model = small_model.model
    weight = float(model.params["out/bias"][0])

    def with_number(params, x):
        (y,) = model.private_predict(params, x)
        return (y * weight,)

    def with_array(params, x):
        (y,) = model.private_predict(params, x)
        return (y + model.params["out/bias"],)

    for leaking in (with_number, with_array):
        fields = {name: getattr(model, name) for name in model.__dataclass_fields__}
        with pytest.raises(LeakError):
            build_program(
                "leaking",
                ConvertedModel(**fields | {"private_predict": leaking}),
                protocol="aby3",
                batch_sizes=(1,),
            )


# The processes -------------------------------------------------------------------------------------------


@dataclass
class Session:
    """A session that has answered planted rows, and what its processes wrote."""

    found: dict[str, set[str]]
    """Party → what is in the memory of its process: features, weights, predictions."""
    log: str


@pytest.fixture(scope="module", params=["aby3", "cheetah"])
def session(request, deploy, small_model, tmp_path_factory) -> Iterator[Session]:
    log_file = tmp_path_factory.mktemp("log") / "log"
    kept = [os.dup(1), os.dup(2)]
    with log_file.open("wb") as log:
        for descriptor in (1, 2):
            os.dup2(log.fileno(), descriptor)
        try:
            deployed = deploy(protocol=request.param)
        finally:
            for saved, descriptor in zip(kept, (1, 2), strict=True):
                os.dup2(saved, descriptor)
                os.close(saved)
    answered = deployed.predict(small_model.rows)
    assert answered.shape == (64, 2)
    rows, params = small_model.rows, small_model.model.params.values()
    wanted = {
        "features": [form for at in (0, 8, 62) for form in _stretches(rows[at : at + 2])]
        + [repr(float(value)).encode() for value in rows[0, :3]],
        "weights": [form for value in params if value.size >= STRETCH for form in _stretches(value)],
        "predictions": [form for at in (0, 8, 56) for form in _stretches(answered[at : at + 4])],
    }
    parties = deployed.processes
    # Another process looks: this one has to answer its parties meanwhile.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        found = pool.map(memory.found, parties.values(), [wanted] * len(parties))
        seen = dict(zip(parties, found, strict=True))
    assert deployed.processes == parties
    yield Session(seen, log_file.read_text(errors="replace"))
    deployed.stop()


def test_features_are_in_the_data_owners_memory_alone(session):
    """Rows that were sent, as floats of any width, as fixed point, as text."""
    assert {party for party, found in session.found.items() if "features" in found} == {"data-owner"}


def test_weights_are_in_the_model_owners_memory_alone(session):
    """Also after they were shared, and after batches were computed with them."""
    assert {party for party, found in session.found.items() if "weights" in found} == {"model-owner"}


def test_predictions_are_in_no_other_memory_than_the_data_owners(session):
    """The result is put together there and nowhere else."""
    assert {party for party, found in session.found.items() if "predictions" in found} <= {"data-owner"}


def test_no_value_is_in_what_the_processes_wrote(session, small_model):
    """Neither features nor weights, to four significant digits."""
    assert "party" in session.log
    values = [
        *small_model.rows[:8].ravel(),
        *(w for v in small_model.model.params.values() for w in v.ravel()),
    ]
    found = {f"{value:.5g}" for value in values if f"{value:.5g}" in session.log}
    assert not found
