"""The leak check: a trained value in an executable's text stops the build, however MLIR writes it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secure_runner.errors import LeakError
from secure_runner.programs.leaks import check_no_leak, constants_of

PLANTED = np.float32(0.7310586)


def _hex(values: np.ndarray) -> str:
    return f'"0x{values.tobytes().hex().upper()}"'


def _constant(value: str, type_: str = "2x3xf32") -> str:
    return f"    %5 = pphlo.constant dense<{value}> : tensor<{type_}>\n    %6 = pphlo.add %5, %arg0\n"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (_constant("5.000000e-01", "f32"), [0.5]),
        (_constant("-1.25", "8x8xf32"), [-1.25]),
        (_constant("[0.000000e+00, 1.300000e+00]", "2xf32"), [0.0, 1.3]),
        (_constant("[[1.0, -2.5e-3], [3.0, 4.0]]", "2x2xf32"), [1.0, -2.5e-3, 3.0, 4.0]),
        (_constant("0x4996B438", "8x2xf32"), [1234567.0]),
        (_constant("[1.000000e-01, 0x4B800001]", "2xf32"), [0.1, 16777218.0]),
        (_constant("0x4132D68700000000", "f64"), [1234567.0]),
        (_constant(_hex(np.array([0.1, -7.5], np.float32)), "2xf32"), [0.1, -7.5]),
        (_constant(_hex(np.array([0.1, -7.5], np.float64)), "2xf64"), [0.1, -7.5]),
        (_constant(_hex(np.array([0.5, -7.5], np.float16)), "2xf16"), [0.5, -7.5]),
    ],
)
def test_constants_are_read_in_every_notation(code, expected):
    """Decimal, nested, splat, bits of one number, bits of a whole tensor; each in its own width."""
    (found,) = constants_of(code)
    np.testing.assert_allclose(found, expected, rtol=1e-3 if found.dtype == np.float16 else 1e-6)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=8))
def test_every_float_of_a_tensor_in_bits_is_read_exactly(values):
    """Large constants are written as bits, and none of them is missed."""
    array = np.array(values, np.float32)
    (found,) = constants_of(_constant(_hex(array), f"{len(values)}xf32"))
    np.testing.assert_array_equal(found, array)


def test_constants_of_other_types_are_left_aside():
    """Indices and masks are structure."""
    assert not list(constants_of(_constant("[3, 4]", "2xi32") + _constant("true", "i1")))


@pytest.mark.parametrize(
    "written",
    [
        _constant(f"{PLANTED:.6e}", "f32"),
        _constant(repr(float(PLANTED)), "2x3xf32"),
        _constant(f"[0.0, {float(PLANTED)!r}]", "2xf32"),
        _constant(_hex(np.array([0, 0, PLANTED], np.float32)), "3xf32"),
        _constant(f"0x{PLANTED.view(np.uint32):08X}", "f32"),
        _constant(_hex(np.array([PLANTED], np.float64)), "1xf64"),
    ],
)
def test_a_planted_weight_is_found(written):
    """The build stops; the error names the param and not its value."""
    params = {"dense/bias": np.zeros(3, np.float32), "dense/kernel": np.array([[1.0, PLANTED]], np.float32)}
    exact = np.float32(f"{PLANTED:.6e}") == PLANTED
    assert exact, "the planted value survives six digits, as MLIR requires of what it writes with six"
    with pytest.raises(LeakError, match="dense/kernel") as caught:
        check_no_leak(written, params)
    assert "7310" not in str(caught.value)


def test_a_large_weight_is_found():
    """A mean of 1234567 is as secret as one of 0.7."""
    with pytest.raises(LeakError):
        check_no_leak(_constant("0x4996B438", "f32"), {"mean": np.array([1234567.0], np.float32)})


def test_a_weight_in_double_precision_is_found_as_the_float_that_it_becomes():
    """Params may be kept wider than the program computes."""
    with pytest.raises(LeakError):
        check_no_leak(_constant(repr(float(np.float32(0.1)))), {"w": np.array([0.1], np.float64)})


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 0.5, 2.0, -0.25, 100.0, 1 / 64])
def test_round_numbers_are_structure(value):
    """A ReLU's zero is in every program, also of a model whose bias is zero."""
    check_no_leak(_constant(repr(value)), {"bias": np.array([value, 0.3], np.float32)})


def test_constants_that_are_no_weight_pass():
    """An epsilon or a pi of the architecture is public."""
    check_no_leak(_constant("3.141593e+00") + _constant("1.0e-05"), {"w": np.array([0.3, 0.4], np.float32)})


def test_infinities_and_integer_params_do_not_disturb():
    """The start value of a maximum is written as bits too."""
    params = {"w": np.array([np.inf, 0.3], np.float32), "table": np.array([7], np.int32)}
    check_no_leak(_constant("0xFF800000", "f32") + _constant("0x7FC00000", "f32"), params)


def test_a_program_without_constants_passes():
    """There is nothing to compare."""
    check_no_leak("func.func @main() { return }", {"w": np.ones(3, np.float32)})
