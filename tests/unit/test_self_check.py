"""A program that SPU compiles wrongly is not saved."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from converters import ConvertedModel, from_flax
from converters import TensorSpec as ModelTensor
from secure_runner.errors import ProgramError
from secure_runner.programs import self_check
from secure_runner.programs.build import build_program
from secure_runner.programs.compiler import compile_here
from secure_runner.programs.lowering import lower
from secure_runner.programs.manifest import NumericSpec, TensorSpec
from secure_runner.programs.names import output_name
from secure_runner.programs.self_check import SelfCheckError, check_answers
from secure_runner.testing import simulate

TABLE = np.arange(12, dtype=np.int32).reshape(3, 4)
ROWS = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
SCALE = {"scale": np.full((), 1.5, np.float32)}


def _transposes_a_constant(variables, x):
    return (x @ jnp.asarray(TABLE).T.astype(jnp.float32) * variables["scale"],)


def _by_hand(function):
    """A model that no converter has looked at."""
    x, y = ModelTensor("x", "float32", (None, 4)), ModelTensor("y", "float32", (None, 3))
    return ConvertedModel(SCALE, (x,), (y,), (x,), (y,), function)


def _checked(function, rows, *, variables=None, samples=None, compiled_as=None):
    """Check a function's executable, or the one of another function that was compiled in its place."""
    model = from_flax(function, variables or SCALE, rows)
    built = model if compiled_as is None else from_flax(compiled_as, SCALE, rows)
    params = [TensorSpec(name=n, dtype=v.dtype.name, shape=v.shape) for n, v in sorted(model.params.items())]
    inputs = [TensorSpec(name=s.name, dtype=s.dtype, shape=s.shape) for s in model.private_inputs]
    outputs = [output_name(spec.name) for spec in model.private_outputs]
    ladder = [lower(one.private_predict, params, inputs, 2) for one in (model, built)]
    code = compile_here("m", ladder[1].hlo, ladder[1].input_names, outputs).SerializeToString()
    check_answers(model, ladder[:1], [code], protocol="aby3", numeric=NumericSpec(), samples=samples)


def test_a_transposed_constant_is_refused():
    """SPU drops its layout and computes with the elements in the wrong order."""
    model = _by_hand(_transposes_a_constant)
    wrong = np.abs(simulate(model, ROWS)[0] - ROWS @ TABLE.T * 1.5).max()
    assert wrong > 1, "SPU compiles it rightly now: this test, and the words about it, can go"
    with pytest.raises(SelfCheckError, match=r"'y'.*at most 0\.05.*self_check=False") as caught:
        build_program("m", model, protocol="semi2k", batch_sizes=(1,))
    assert isinstance(caught.value, ProgramError)
    build_program("m", model, protocol="aby3", batch_sizes=(1,), self_check=False)


@pytest.mark.parametrize("cast_first", [False, True])
def test_the_converter_transposes_constants_itself(cast_first):
    """What is written so in a Flax function runs rightly."""

    def function(variables, x):
        table = jnp.asarray(TABLE)
        table = table.astype(jnp.float32).T if cast_first else table.T.astype(jnp.float32)
        return x @ table * variables["scale"]

    (found,) = simulate(from_flax(function, SCALE, ROWS), ROWS)
    np.testing.assert_allclose(found, ROWS @ TABLE.T * 1.5, atol=1e-3)


def test_a_softmax_that_jaxlib_gets_wrong_is_no_false_alarm():
    """jaxlib 0.4.26 computes it along the last dimension on the CPU, whatever it is asked; SPU does not."""

    def network(variables, x):
        return jax.nn.softmax(x.reshape(-1, 3, 4, 5), axis=1) * variables["scale"]

    _checked(network, np.random.default_rng(0).normal(size=(2, 60)).astype(np.float32))


def test_an_output_that_hangs_on_the_last_bits_is_told(caplog):
    """The samples lie between two steps of the ring, and so does the threshold."""
    step = 2.0**-18
    rows = np.full((2, 1), 1 + 0.3 * step, np.float32)
    _checked(lambda v, x: x * v["scale"] > 1.5 * (1 + 0.1 * step), rows, samples=[rows])
    assert "depends on the last bits" in caplog.text


def test_wrong_labels_are_refused():
    """Labels are compared where they do not hang on the last bits."""

    def label(variables, x):
        return (x > variables["scale"]).astype(jnp.int32)

    _checked(label, ROWS)
    with pytest.raises(SelfCheckError, match="output_0"):
        _checked(label, ROWS, compiled_as=lambda v, x: (x < v["scale"]).astype(jnp.int32))


def test_samples_are_what_is_compared():
    """Values that overflow the ring on the samples, and nowhere near zero, stop the build."""

    def cube(variables, x):
        return x * x * x * variables["scale"]

    with pytest.raises(SelfCheckError):
        _checked(cube, ROWS, samples=[ROWS * 1e5])


def test_a_program_that_does_not_run_is_refused():
    """SPU compiles this comparison of a scalar and fails when it runs; its reason is passed on."""

    def label(variables, x):
        return (variables["scale"] > 1) & (x < 1e6)

    with pytest.raises(ProgramError, match=r"x\.shape\(\) == y\.shape\(\)"):
        _checked(label, ROWS)


def test_a_skipped_check_is_told(caplog, monkeypatch):
    """A large model is built without it, and the log says that it was not compared."""
    monkeypatch.setattr(self_check, "_LARGEST_PARAMS_BYTES", 3)
    _checked(_transposes_a_constant, ROWS)
    assert "was not compared with the model: its params take 0 MiB" in caplog.text
