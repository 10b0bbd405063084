"""SECURITY.md names a test for each claim, and the tests are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_HEADING = "## What is defended, and the test that backs it"


def _claims() -> list[tuple[str, str]]:
    """Claim and the cell that names its tests, from the table."""
    section = (ROOT / "SECURITY.md").read_text().partition(_HEADING)[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    return [(row[0], row[-1]) for row in rows[1:]]


def test_the_table_is_there():
    """It has a row for each of the things that a reader would ask after."""
    assert len(_claims()) >= 14


@pytest.mark.parametrize(("claim", "tests"), _claims())
def test_every_claim_names_tests_that_exist(claim, tests):
    """Files or folders with tests in them, or targets of the Makefile; and nothing else."""
    named = re.findall(r"`([^`]+)`", tests)
    assert named, claim
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for name in named:
        if name.startswith("make "):
            assert name.removeprefix("make ") in targets, claim
            continue
        path = ROOT / name
        files = [path] if path.suffix == ".py" else list(path.rglob("test_*.py"))
        assert files, claim
        assert all("def test_" in file.read_text() for file in files), claim
