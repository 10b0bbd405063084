"""Importing this package does nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

_PROBE = """
import builtins, io, json, os, sys
sys.path.insert(0, sys.argv[1])
import encodings.utf_8, json.decoder, typing, importlib.util  # what any Python has loaded
watching, read, opened = False, [], []

class Environment(type(os.environ)):
    def __getitem__(self, key):
        if watching:
            read.append(key)
        return super().__getitem__(key)

    def get(self, key, default=None):
        if watching:
            read.append(key)
        return super().get(key, default)

os.environ.__class__ = Environment

def audit(event, arguments):
    if not watching:
        return
    is_file = event == "open" and isinstance(arguments[0], (str, bytes))
    if is_file and not str(arguments[0]).endswith((".py", ".pyc", ".so")):
        opened.append([str(arguments[0]), str(arguments[1])])
    if event in ("subprocess.Popen", "os.fork", "os.posix_spawn", "socket.connect", "socket.bind"):
        opened.append([event, ""])

sys.addaudithook(audit)
watching = True
for name in sys.argv[2:]:
    __import__(name)
watching = False
import threading, logging
print(json.dumps({
    "modules": sorted({name.partition(".")[0] for name in sys.modules}),
    "read": sorted(set(read)),
    "opened": opened,
    "threads": threading.active_count(),
    "log_handlers": len(logging.getLogger().handlers),
}))
"""


def _imported(*names: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", _PROBE, str(ROOT), *names], capture_output=True, text=True, check=True, cwd="/"
    )
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_importing_the_package_is_light_and_does_nothing():
    """No heavy library, no file, no environment variable, no process, no thread, no log set up."""
    found = _imported("secure_runner")
    heavy = {"secretflow", "spu", "jax", "jaxlib", "numpy", "bentoml", "pydantic", "converters"}
    assert not heavy & set(found["modules"])
    assert not found["opened"]
    assert not found["read"]
    assert (found["threads"], found["log_handlers"]) == (1, 0)


@pytest.mark.parametrize(
    ("module", "without"),
    [
        ("secure_runner.errors", {"numpy", "pydantic", "jax", "spu", "secretflow", "bentoml"}),
        ("secure_runner.protocols", {"numpy", "pydantic", "jax", "spu", "secretflow", "bentoml"}),
        ("secure_runner.frames", {"pydantic", "jax", "spu", "secretflow", "bentoml"}),
        ("secure_runner.programs.manifest", {"numpy", "jax", "spu", "secretflow", "bentoml"}),
        ("secure_runner.programs.files", {"jax", "spu", "secretflow", "bentoml"}),
        ("secure_runner.spu_config", {"jax", "spu", "secretflow", "bentoml"}),
        ("secure_runner.runner.queue", {"jax", "spu", "secretflow", "bentoml"}),
        ("secure_runner.sessions.leader", {"jax", "spu", "secretflow", "bentoml"}),
        ("secure_runner.runner.service", {"jax", "onnx", "spu", "secretflow", "pandas"}),
        ("secure_runner.programs.store", {"jax", "onnx", "spu", "secretflow"}),
        ("secure_runner.party.__main__", {"jax", "spu", "secretflow", "bentoml", "converters"}),
    ],
)
def test_a_part_imports_only_what_it_is_about(module, without):
    """SPU and SecretFlow belong to the party, JAX to the compiler, BentoML to the service and the store."""
    assert not without & set(_imported(module)["modules"])


def test_every_public_name_can_be_had():
    """`__all__` says no more and no less than what the package gives; another name is an AttributeError."""
    import secure_runner

    assert all(getattr(secure_runner, name) is not None for name in secure_runner.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        secure_runner.no_such_name  # noqa: B018
