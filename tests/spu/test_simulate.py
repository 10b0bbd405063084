"""`secure_runner.testing`: the real protocols with all parties in this process."""

import numpy as np
import pytest

from converters import ConvertedModel, LocalStep, TensorSpec
from secure_runner.errors import InputError
from secure_runner.testing import run_private, simulate


def _model():
    weights = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    column = TensorSpec("x", "float32", (None, 4))
    return ConvertedModel(
        params={"w": weights},
        inputs=(column,),
        outputs=(TensorSpec("p", "float32", (None, 3)),),
        private_inputs=(TensorSpec("scaled", "float32", (None, 4)),),
        private_outputs=(TensorSpec("z", "float32", (None, 3)),),
        private_predict=lambda params, x: (x @ params["w"],),
        encode=(LocalStep("scale", ("x",), ("scaled",), {"factor": 2.0}),),
        decode=(LocalStep("sigmoid", ("z",), ("p",)),),
    )


@pytest.mark.parametrize("protocol", ["aby3", "semi2k"])
def test_encode_and_decode_are_part_of_a_simulation(protocol):
    """The answer is that of the whole model in plain JAX, within what 18 fraction bits hold."""
    model = _model()
    x = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    (found,) = simulate(model, x, protocol=protocol)
    (expected,) = model.predict(model.params, x)
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_traffic_is_counted_for_each_operation():
    """A product of matrices is one operation, and what it sends is what the run sends."""
    traffic = run_private(_model(), [np.ones((5, 4), np.float32)], with_traffic=True).traffic
    assert traffic.ops["dot"].count == 1
    assert traffic.ops["dot"].sent_bytes == traffic.sent_bytes > 0
    assert traffic.messages == traffic.ops["dot"].messages


def test_a_wrong_shape_is_refused():
    """Inputs are checked against the model before anything is shared."""
    with pytest.raises(InputError, match=r"\(None, 4\).*\(5, 3\)"):
        simulate(_model(), np.ones((5, 3), np.float32))
