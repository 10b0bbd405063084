"""The image that ``bentoml containerize`` would build of a Bento, read from its Dockerfile."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

LOCK = Path(__file__).parents[3] / "requirements.lock"
_PIN = re.compile(r"^([A-Za-z0-9_.-]+)==([^\s;\\]+)", re.MULTILINE)


@pytest.fixture(scope="module")
def dockerfile(exported):
    """Its instructions, continued lines joined."""
    text = (exported / "env/docker/Dockerfile").read_text().replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def test_the_lock_is_what_is_installed(exported, dockerfile):
    """Every pin with its hashes; the lock overrides what packages ask for, as it did when it was made."""
    installed = exported / "env/python/requirements.txt"
    assert set(_PIN.findall(installed.read_text())) == set(_PIN.findall(LOCK.read_text()))
    hashed = re.findall(r"--hash=(\S+)", installed.read_text())
    assert sorted(hashed) == sorted(re.findall(r"--hash=(\S+)", LOCK.read_text()))
    (install,) = [line for line in dockerfile if "uv --directory" in line and "pip install" in line]
    assert install.endswith("-r $BENTO_PATH/env/python/requirements.txt")
    path = "/home/bentoml/bento/env/python/requirements.txt"
    assert f"ARG UV_OVERRIDE={path}" in dockerfile
    assert "ENV UV_OVERRIDE=$UV_OVERRIDE" in dockerfile
    assert dockerfile.index(f"ARG UV_OVERRIDE={path}") < dockerfile.index(install)
    assert "ARG BENTO_PATH=/home/bentoml/bento" in dockerfile


def test_the_override_is_needed(exported):
    """SecretFlow's own pin of s3fs contradicts the lock: without the override nothing would install."""
    from importlib.metadata import requires

    (wanted,) = [r for r in map(Requirement, requires("secretflow") or []) if r.name == "s3fs"]
    locked = dict(_PIN.findall((exported / "env/python/requirements.txt").read_text()))["s3fs"]
    assert not wanted.specifier.contains(locked)


def test_python_and_user(dockerfile):
    """Python 3.10, and from the end of the build on a user that is not root."""
    assert dockerfile[0].startswith("FROM python:3.10-slim")
    assert "USER bentoml" in dockerfile
    assert "ARG BENTO_USER_UID=1034" in dockerfile, "deploy/ names this uid"
    assert not [line for line in dockerfile[dockerfile.index("USER bentoml") :] if line.startswith("RUN")]


def test_no_variable_of_the_image_holds_a_secret(dockerfile):
    """ARG and ENV stay in the image's history: paths and switches alone, nothing of the parties."""
    variables = [line for line in dockerfile if line.startswith(("ARG ", "ENV "))]
    assert variables
    telling = re.compile(r"SECURE_RUNNER|TOKEN|SECRET|PASSWORD|_KEY|PRIVATE|planted", re.IGNORECASE)
    assert not [line for line in variables if telling.search(line)]
    assert not [line for line in dockerfile if "--mount=type=secret" in line]
