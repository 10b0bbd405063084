"""Samples choose the ring and the ranges of the inputs, and say what would go wrong."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from skl2onnx import to_onnx
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from converters import InputSpecError, from_flax, from_onnx

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 4)).astype(np.float32)
_W = RNG.normal(size=(4, 3)).astype(np.float32)
WEIGHTS = {"w": _W, "small": (_W * 1e-5).astype(np.float32)}


def _numeric(function, x=X):
    model = from_flax(function, WEIGHTS, x, calibration=[x])
    return model.numeric, " ".join(model.report.warnings)


def test_a_well_scaled_model_needs_no_more_than_fm64():
    """No warning, 18 bits, and an input range of some times what the samples show."""
    numeric, warnings = _numeric(lambda v, x: nn.relu(x @ v["w"]))
    assert (numeric.field, numeric.fraction_bits, warnings) == ("FM64", 18, "")
    low, high = numeric.input_ranges["input_0"]
    assert -low == high
    assert np.abs(X).max() * 4 < high <= np.abs(X).max() * 16 + 1


@pytest.mark.parametrize(
    ("function", "factor", "message"),
    [
        (lambda v, x: (x @ v["w"]) ** 2, 1e4, "products up to"),
        (lambda v, x: x @ v["small"], 1e5, "weights rounded"),
        (lambda v, x: (x @ v["w"]) * (x @ v["w"]), 1e-3, "no value above"),
        (lambda v, x: 1 / (x @ v["w"]), 1e-5, "a divisor"),
        (lambda v, x: jax.lax.rsqrt((x @ v["w"]) ** 2), 1e-4, "rsqrt"),
    ],
)
def test_what_fm64_does_not_hold_is_named_and_fm128_chosen(function, factor, message):
    """Products beyond 1.3e8, weights under large features, tiny values, divisors near 0."""
    numeric, warnings = _numeric(function, (X * factor).astype(np.float32))
    assert (numeric.field, numeric.fraction_bits) == ("FM128", 26)
    assert message in warnings


def test_large_logits_are_named():
    """A sigmoid inside the model saturates; beyond 500 its exponential is not what it should be."""
    _, warnings = _numeric(lambda v, x: nn.sigmoid(x @ v["w"]) @ v["w"].T, X * 1000)
    assert "a logit" in warnings


def test_a_softmax_with_a_mask_is_no_reason_to_warn():
    """Numbers far below the maximum give 0, as they should."""

    def masked(v, x):
        return nn.softmax(jax.numpy.where(x @ v["w"] > 0, x @ v["w"], -1e4)) @ v["w"].T

    assert _numeric(masked)[1] == ""


def test_features_of_any_size_are_scaled_by_the_data_owner():
    """Incomes, rates and counts in one table: powers of two bring them to the order of 1, exactly."""
    scales = np.array([1e5, 1e-3, 1.0, 1e6])
    x = (RNG.normal(size=(200, 4)) * scales).astype(np.float32)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression()).fit(x, x[:, 0] > 0)
    proto = to_onnx(pipeline, x[:1], options={"zipmap": False})
    model = from_onnx(proto, calibration=[x])
    assert "scale_features" in model.report.rewrites
    assert model.numeric.field == "FM64"
    (step,) = model.encode
    np.testing.assert_allclose(np.log2(step.attrs["factor"]), np.round(np.log2(1 / x.std(axis=0))), atol=0)
    np.testing.assert_allclose(model.predict(model.params, x)[1], pipeline.predict_proba(x), atol=1e-5)
    unscaled = from_onnx(proto, calibration=[x], rewrites={"scale_features": False})
    assert unscaled.numeric.field == "FM128"


def test_samples_that_do_not_fit_are_refused():
    """Their number, shape and finiteness are checked."""
    with pytest.raises(InputSpecError, match=r"one array for each input"):
        from_flax(lambda v, x: x @ v["w"], WEIGHTS, X, calibration=[X, X])
    with pytest.raises(InputSpecError, match=r"\(None, 4\)"):
        from_flax(lambda v, x: x @ v["w"], WEIGHTS, X, calibration=[X[:, :3]])
    with pytest.raises(InputSpecError, match="NaN"):
        from_flax(lambda v, x: x @ v["w"], WEIGHTS, X, calibration=[X * np.nan])
