"""docs/http.md has every route, code, setting and limit, as the code has them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from starlette.routing import Route

from secure_runner.http.api import PredictionApi
from secure_runner.http.app import create_app
from secure_runner.http.codes import ERROR_CODES
from secure_runner.http.settings import ClientLimits, HttpSettings

PAGE = Path(__file__).parents[3] / "docs" / "http.md"


def _rows(model: type[BaseModel]) -> list[str]:
    """One line of a table for each field: name, default, its docstring."""
    rows = []
    for name, field in model.model_fields.items():
        default = "" if isinstance(field.default, tuple | BaseModel) else f"`{_yaml(field.default)}`"
        description = " ".join((field.description or "").replace("``", "`").split())
        assert description, f"{model.__name__}.{name} has no docstring"
        rows.append(f"| `{name}` | {default} | {description} |")
    return rows


def _yaml(value: Any) -> str:
    return str(yaml.safe_dump(value)).split("\n")[0]


def _codes() -> list[str]:
    return [
        f"| `{code}` | {entry.status} | {entry.meaning} | {entry.cure} |"
        for code, entry in ERROR_CODES.items()
    ]


@pytest.mark.parametrize(
    ("marker", "rows"),
    [("error codes", _codes()), ("settings", _rows(HttpSettings)), ("limits", _rows(ClientLimits))],
)
def test_tables_follow_the_code(marker: str, rows: list[str]) -> None:
    """Each table has exactly the code's rows, in its order; the failure shows what to paste."""
    _, found, rest = PAGE.read_text().partition(f"<!-- {marker} -->\n")
    assert found
    _head, _line, *table = rest.split("\n\n", 1)[0].split("\n")
    assert table == rows, "paste:\n" + "\n".join(rows)


def test_every_code_that_the_runner_gives_is_in_the_table() -> None:
    """Codes written in the runner and its sessions reach clients, so clients can look them up."""
    source = PAGE.parents[1] / "secure_runner"
    files = [
        *(source / "runner").glob("*.py"),
        *(source / "sessions").glob("*.py"),
        *(source / "http").glob("*.py"),
    ]
    given = {code for file in files for code in re.findall(r"\bcode=\"([a-z_]+)\"", file.read_text())}
    assert given
    assert given <= set(ERROR_CODES)


def test_every_route_is_described() -> None:
    """Each path of the application is on the page."""
    text = PAGE.read_text()
    for route in create_app(PredictionApi()).routes:
        assert isinstance(route, Route)
        path = route.path.replace("/versions/{version}", "")
        assert path in text, route.path


def test_the_example_of_settings_is_valid() -> None:
    """The http.yaml on the page can be used as it is."""
    text = PAGE.read_text().partition("```yaml\n")[2].partition("```")[0]
    assert HttpSettings.model_validate(yaml.safe_load(text)).clients[0].name == "ward-3"
