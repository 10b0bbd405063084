"""The README says what is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from secure_runner.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of a page is a file of the project."""
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_python_blocks_are_python() -> None:
    """Every Python block of the README compiles, and what it imports is there."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        compile(block, "README.md", "exec")
        for line in re.findall(r"^(?:from|import) .*$", block, re.MULTILINE):
            exec(line, {})


def test_named_commands_exist() -> None:
    """What the README tells to type can be typed."""
    text = (ROOT / "README.md").read_text()
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"\$ make (\w+)", text)) <= set(targets)
    assert set(re.findall(r"\$ secure-runner (\w+)", text)) <= set(COMMANDS)


def test_security_claims_name_tests_that_exist() -> None:
    """Each claim of SECURITY.md stands beside a test file or folder."""
    named = re.findall(r"`(tests/[\w/.]+)`", (ROOT / "SECURITY.md").read_text())
    assert len(named) > 10
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_nothing_of_this_machine_is_written_down() -> None:
    """No index and no path of a developer's machine is in the locks, the build files or the pages."""
    files = [
        *PAGES,
        *ROOT.glob("*.lock"),
        ROOT / "pyproject.toml",
        ROOT / "Makefile",
        ROOT / "bentofile.yaml",
    ]
    for file in files:
        text = file.read_text()
        assert "--index-url" not in text, file
        assert str(ROOT) not in text, file
