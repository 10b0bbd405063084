import subprocess
import sys

import converters


def test_importing_the_converters_loads_no_serving_or_mpc_library():
    """A model can be converted and looked at where neither SPU, SecretFlow nor BentoML is installed."""
    code = (
        "import sys, converters;"
        "print([name for name in ('spu', 'secretflow', 'bentoml', 'secure_runner') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_every_public_name_exists():
    """``__all__`` names nothing that is not there."""
    assert all(hasattr(converters, name) for name in converters.__all__)
