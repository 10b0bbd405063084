import subprocess
import sys

import pytest

import converters


@pytest.mark.parametrize(
    ("imports", "without"),
    [
        ("import converters", ("spu", "secretflow", "bentoml", "secure_runner")),
        ("from converters import LocalStep, apply_steps", ("jax", "flax", "onnx", "spu", "bentoml")),
    ],
)
def test_importing_the_converters_loads_no_serving_or_mpc_library(imports, without):
    """A model can be looked at without a serving or MPC library, and local steps run without JAX."""
    code = f"import sys\n{imports}\nprint([name for name in {without} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_every_public_name_exists():
    """``__all__`` names nothing that is not there, and what is not in it is not there."""
    assert all(hasattr(converters, name) for name in converters.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        converters.no_such_name  # noqa: B018
