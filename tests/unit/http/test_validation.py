"""Inputs are taken as the manifest describes them, or refused with a code, a place and no value."""

from __future__ import annotations

import json

import numpy as np
import pytest

from secure_runner.http.codes import ERROR_CODES, RequestError
from secure_runner.http.validation import ring_limit, validate_inputs
from secure_runner.programs.manifest import InputRange, LocalStepSpec, Manifest, NumericSpec, TensorSpec

SECRET = 987.654321

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "raw",
    [
        [[1, 2, 3], [4, 5, 6]],
        [[1.0, 2, 3.0], [4, 5.0, 6]],
        {"x": [[1, 2, 3], [4, 5, 6]]},
        np.array([[1, 2, 3], [4, 5, 6]], dtype=np.int64),
        np.array([[1, 2, 3], [4, 5, 6]], dtype=">f8"),
        np.asfortranarray(np.array([[1, 2, 3], [4, 5, 6]], dtype=np.float16)),
    ],
)
def test_what_fits_becomes_the_manifests_dtype(single: Manifest, raw: object) -> None:
    """Integers and other floats become the input's floats, C-ordered, with no value changed."""
    array = validate_inputs(single, raw)["x"]
    assert array.dtype == np.float32
    assert array.dtype.isnative
    assert array.flags.c_contiguous
    assert array.tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("raw", "code", "row"),
    [
        ([1, 2, 3], "wrong_shape", 0),
        ([[1, 2]], "wrong_shape", 0),
        ([[1, 2, 3], [1, 2]], "ragged_rows", 1),
        ([[1, 2, 3], 5], "ragged_rows", 1),
        ([[1, 2, 3], None], "ragged_rows", 1),
        ([[[1], [2], [3]]], "wrong_shape", None),
        ("abc", "wrong_shape", None),
        (None, "wrong_shape", None),
        (3.5, "wrong_shape", None),
        ([], "empty_batch", None),
        ([[1, 2, 3]] * 9, "too_many_rows", None),
        ([[1, 2, 3], [1, None, 3]], "not_finite", 1),
        ([[1, 2, 3], [1, "2", 3]], "wrong_dtype", 1),
        ([[1, 2, True]], "wrong_dtype", 0),
        ([[1, 2, {}]], "wrong_dtype", 0),
        ([[1, 2, 3], [1, NAN, 3]], "not_finite", 1),
        ([[1, 2, -INF]], "not_finite", 0),
        ([[1, 2, 3], [1, 1000.1, 3]], "out_of_range", 1),
        ([[1, 2, 10**400]], "out_of_range", None),
        ([[1, 2, 1e300]], "out_of_range", 0),
        (np.zeros((3,)), "wrong_shape", None),
        (np.zeros((1, 3, 1)), "wrong_shape", None),
        (np.zeros((0, 3)), "empty_batch", None),
        (np.zeros((9, 3)), "too_many_rows", None),
        (np.zeros((1, 3), dtype=bool), "wrong_dtype", None),
        (np.zeros((1, 3), dtype=complex), "wrong_dtype", None),
        (np.array([["1", "2", "3"]]), "wrong_dtype", None),
        (np.array([[1, 2, None]], dtype=object), "wrong_dtype", None),
        (np.array([[1, 2, NAN]]), "not_finite", 0),
        (np.full((1, 3), 2**24 + 1), "out_of_range", None),
        ({"z": [[1, 2, 3]]}, "unknown_input", None),
        ({"x": [[1, 2, 3]], "z": 1}, "unknown_input", None),
        ({}, "missing_input", None),
    ],
)
def test_what_does_not_fit_is_refused(single: Manifest, raw: object, code: str, row: int | None) -> None:
    """Each way of being wrong has its code and a 4xx, and names the first wrong row, from 0."""
    with pytest.raises(RequestError) as refused:
        validate_inputs(single, raw, max_rows=8)
    assert refused.value.code == code
    assert refused.value.http_status == ERROR_CODES[code].status
    assert refused.value.details.get("row") == row


@pytest.mark.parametrize(
    "raw",
    [
        [[SECRET, 2, "987.654321"]],
        [[SECRET, 2, None]],
        [[SECRET, 2, NAN]],
        [[SECRET, SECRET]],
        [[987654321.0, 2, 3]],
        [["987.654321", 1, 2]],
        SECRET,
        "987.654321",
        [SECRET] * 3,
        np.array([[SECRET, 2, NAN]]),
        np.array([SECRET]),
        np.array([["987.654321"]]),
        np.full((1, 3), 987654321),
    ],
)
def test_no_error_holds_a_value(single: Manifest, raw: object) -> None:
    """Neither message nor details repeat what was sent."""
    with pytest.raises(RequestError) as refused:
        validate_inputs(single, raw)
    told = str(refused.value) + json.dumps(refused.value.details)
    assert "987" not in told


def test_several_inputs_keep_the_manifests_order_and_dtypes(several: Manifest) -> None:
    """Inputs may come in any order; a batch of images, counts and flags keeps its shapes."""
    raw = {"flag": [[True], [False]], "count": [1, 2], "image": [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]}
    arrays = validate_inputs(several, raw)
    assert [(name, array.dtype.name, array.shape) for name, array in arrays.items()] == [
        ("image", "float64", (2, 2, 2)),
        ("count", "int32", (2,)),
        ("flag", "bool", (2, 1)),
    ]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"count": [1]}, "batch_mismatch"),
        ({"count": [1, 2.0]}, "wrong_dtype"),
        ({"count": [1, 2**31]}, "out_of_range"),
        ({"count": [1, 2**63]}, "out_of_range"),
        ({"count": [1, True]}, "wrong_dtype"),
        ({"count": np.array([1.0, 2.0])}, "wrong_dtype"),
        ({"flag": [[1], [0]]}, "wrong_dtype"),
        ({"flag": np.zeros((2, 1), dtype=np.uint8)}, "wrong_dtype"),
        ({"image": [[[1, 2], [3, 4]], [[1, 2], [3]]]}, "ragged_rows"),
    ],
)
def test_no_cast_loses_anything(several: Manifest, change: dict[str, object], code: str) -> None:
    """Floats never become integers, numbers never booleans, and integers are never cut."""
    raw = {"flag": [[True], [False]], "count": [1, 2], "image": [[[1, 2], [3, 4]]] * 2, **change}
    with pytest.raises(RequestError) as refused:
        validate_inputs(several, raw)
    assert refused.value.code == code


def test_rows_alone_are_not_enough_for_several_inputs(several: Manifest) -> None:
    """Nobody guesses which input a bare list of rows is meant for."""
    with pytest.raises(RequestError) as refused:
        validate_inputs(several, [[1, 2, 3]])
    assert refused.value.code == "missing_input"


def test_the_ring_limits_what_has_no_declared_range(several: Manifest) -> None:
    """2^44 is where FM64 with 18 fraction bits saturates; just below it passes, at it nothing does."""
    raw = {"flag": [[True]], "count": [1], "image": [[[0, 0], [0, 2**44 - 1]]]}
    assert validate_inputs(several, raw)["image"].max() == 2**44 - 1
    raw["image"] = [[[0, 0], [0, 2.0**44]]]
    with pytest.raises(RequestError) as refused:
        validate_inputs(several, raw)
    assert refused.value.code == "out_of_range"
    assert refused.value.details["position"] == [0, 1, 1]


def test_an_input_that_is_encoded_locally_is_not_bound_by_the_ring(several: Manifest) -> None:
    """What never enters the ring needs no limit of the ring."""
    encoded = several.model_copy(
        update={"private_inputs": (TensorSpec(name="other", dtype="float64", shape=(None, 4)),)}
    )
    raw = {"flag": [[True]], "count": [1], "image": [[[0, 0], [0, 2.0**50]]]}
    assert validate_inputs(encoded, raw)["image"].max() == 2.0**50


@pytest.mark.parametrize(
    ("field", "fraction_bits", "exponent"), [("FM32", 8, 22), ("FM64", 18, 44), ("FM128", 26, 100)]
)
def test_ring_limit(field: str, fraction_bits: int, exponent: int) -> None:
    """Two bits of the ring stay free, the fraction bits are taken."""
    numeric = NumericSpec.model_validate({"field": field, "fraction_bits": fraction_bits})
    assert ring_limit(numeric) == 2.0**exponent


def test_a_declared_range_includes_its_ends(single: Manifest) -> None:
    """0.1 sent as JSON is inside [0.1, 0.3], though the float32 next to it lies a little above."""
    bounded = single.model_copy(update={"input_ranges": {"x": InputRange(low=0.1, high=0.3)}})
    assert validate_inputs(bounded, [[0.1, 0.2, 0.3]])["x"].shape == (1, 3)
    integers = single.model_copy(
        update={
            "inputs": (TensorSpec(name="x", dtype="int32", shape=(None, 3)),),
            "input_ranges": {"x": InputRange(low=0.5, high=3.5)},
        }
    )
    assert validate_inputs(integers, [[1, 2, 3]])["x"].dtype == np.int32
    for outside_integer in (0, 4):
        with pytest.raises(RequestError):
            validate_inputs(integers, [[1, 2, outside_integer]])
    for outside in (0.0999, 0.3001):
        with pytest.raises(RequestError) as refused:
            validate_inputs(bounded, [[0.1, outside, 0.3]])
        assert refused.value.details["position"] == [0, 1]


def test_missing_values_pass_where_the_data_owner_marks_them(single: Manifest) -> None:
    """null and NaN are missing values of an input that an encode step reads as such; infinity is not."""
    mark = LocalStepSpec(op="mark_missing", inputs=("x",), outputs=("x.filled", "x.missing"))
    marked = single.model_copy(update={"encode": (mark,)})
    array = validate_inputs(marked, [[1, None, 3]])["x"]
    assert np.isnan(array[0, 1])
    assert array[0, ::2].tolist() == [1, 3]
    assert np.isnan(validate_inputs(marked, np.array([[1, NAN, 3]], np.float32))["x"][0, 1])
    for wrong in ([[1, INF, 3]], [[1, "2", 3]]):
        with pytest.raises(RequestError):
            validate_inputs(marked, wrong)


def test_strings_pass_where_the_manifest_takes_strings(single: Manifest) -> None:
    """Columns of categories are strings, and nothing else."""
    spec = TensorSpec(name="x", dtype="str", shape=(None, 2))
    categories = single.model_copy(update={"inputs": (spec,), "private_inputs": ()})
    assert validate_inputs(categories, [["red", "blue"]])["x"].tolist() == [["red", "blue"]]
    for wrong in ([["red", 1]], [["red", None]], np.zeros((1, 2), np.float32)):
        with pytest.raises(RequestError) as refused:
            validate_inputs(categories, wrong)
        assert refused.value.code == "wrong_dtype" or "null" in str(refused.value)
