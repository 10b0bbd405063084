"""The runner as a BentoML service: which params it accepts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import bentoml
import pytest

from secure_runner.errors import ProgramError
from secure_runner.runner.service import SecureRunner


def _model(tag: str, path: Path) -> SimpleNamespace:
    return SimpleNamespace(tag=bentoml.Tag.from_str(tag), path=str(path))


def test_params_of_another_version_are_refused(tmp_path):
    """A program never runs with the weights of another one; nothing is started."""
    runner = SecureRunner.for_model("credit:first").inner()
    runner.program, runner.params = _model("credit:first", tmp_path), _model("credit-params:second", tmp_path)
    with pytest.raises(ProgramError, match=r"credit:first.*credit-params:second.*different versions"):
        asyncio.run(runner.start())


def test_a_bento_for_other_parties_names_no_params():
    """With params, program and params are named; without, the program alone."""
    both = SecureRunner.for_model("credit:first")
    public = SecureRunner.for_model("credit:first", with_params=False)
    assert {str(model.tag) for model in both.models} == {"credit:first", "credit-params:first"}
    assert {str(model.tag) for model in public.models} == {"credit:first"}
