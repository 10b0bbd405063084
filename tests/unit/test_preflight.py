"""What SPU cannot run is found in the lowered program, all of it at once, before SPU sees it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from converters import from_flax
from secure_runner.errors import ProgramError
from secure_runner.programs.build import build_program
from secure_runner.programs.hlo import read_hlo
from secure_runner.programs.lowering import lower
from secure_runner.programs.manifest import TensorSpec
from secure_runner.programs.preflight import PreflightError, check_lowered, problems_of


def _lowered(function, *shapes):
    specs = [TensorSpec(name=f"x{i}", dtype="float32", shape=shape) for i, shape in enumerate(shapes)]
    return lower(lambda params, *xs: (function(*xs),), (), specs, 1)


def _ops(function, *shapes):
    return [problem.op for problem in problems_of(read_hlo(_lowered(function, *shapes).hlo))]


@pytest.mark.parametrize(
    ("function", "op"),
    [
        (jnp.isfinite, "is-finite"),
        (lax.lgamma, "is-finite"),
        (jnp.cbrt, "cbrt"),
        (lax.tan, "tan"),
        (lambda x: jnp.abs(jnp.fft.fft(x)), "fft"),
        (lambda x: lax.clz(x.astype(jnp.int32)), "count-leading-zeros"),
        (lambda x: (x.astype(jnp.bfloat16) * 2).astype(jnp.float32), "convert"),
        (lambda x: lax.top_k(x, 2)[0], "topk"),
        (lambda x: x + jax.random.normal(jax.random.PRNGKey(0), x.shape), "bitcast-convert"),
        (lambda x: lax.while_loop(lambda a: a.sum() < 5, lambda a: a * 2, x), "while"),
    ],
)
def test_an_operation_that_spu_cannot_run_is_named(function, op):
    """Each is found by its own name, with a reason and a remedy."""
    problems = problems_of(read_hlo(_lowered(function, (3, 4)).hlo))
    (problem,) = [problem for problem in problems if problem.op == op]
    assert problem.reason
    assert problem.remedy


def test_convolutions_are_told_apart():
    """Plain and depthwise two-dimensional convolutions run; grouped and three-dimensional ones do not."""

    def grouped(groups):
        numbers = ("NHWC", "HWIO", "NHWC")
        return lambda x, k: lax.conv_general_dilated(
            x, k, (1, 1), "SAME", feature_group_count=groups, dimension_numbers=numbers
        )

    assert _ops(grouped(1), (1, 6, 6, 4), (3, 3, 4, 4)) == []
    assert _ops(grouped(4), (1, 6, 6, 4), (3, 3, 1, 4)) == []
    assert _ops(grouped(2), (1, 6, 6, 4), (3, 3, 2, 4)) == ["convolution"]
    volume = lambda x, k: lax.conv(x, k, (1, 1, 1), "VALID")  # noqa: E731
    assert _ops(volume, (1, 2, 4, 4, 4), (3, 2, 2, 2, 2)) == ["convolution"]


def test_loops_of_a_public_length_are_fine():
    """The counter is public although what the loop carries is secret."""
    assert _ops(lambda x: lax.fori_loop(0, 3, lambda _, a: a * x, x), (3, 4)) == []
    assert _ops(lambda x: lax.scan(lambda c, row: (c + row, c * row), x[0], x)[1], (3, 4)) == []


def test_all_problems_are_raised_at_once():
    """One error lists every kind of problem, so that a model is repaired in one go."""
    with pytest.raises(PreflightError) as raised:
        check_lowered(_lowered(lambda x: jnp.cbrt(x) + lax.tan(x) + jnp.isfinite(x), (3, 4)))
    assert {problem.op for problem in raised.value.problems} == {"cbrt", "tan", "is-finite"}
    assert "To fix it: write sin(x) / cos(x)" in str(raised.value)


def test_a_build_stops_before_the_compiler():
    """`build_program` checks first; callbacks do not even lower."""
    weights = {"w": np.ones((4, 2), np.float32)}
    x = np.ones((1, 4), np.float32)
    with pytest.raises(PreflightError, match="tan"):
        build_program("m", from_flax(lambda v, x: lax.tan(x @ v["w"]), weights, x), protocol="aby3")
    shape = jax.ShapeDtypeStruct((3, 4), np.float32)
    with pytest.raises(ProgramError, match="lowered"):
        _lowered(lambda x: jax.pure_callback(lambda a: a, shape, x), (3, 4))
