"""Turns pydantic's findings into one error that names each field, what was expected and what came."""

from __future__ import annotations

from pydantic import ValidationError

from secure_runner.errors import ConfigError

__all__ = ["config_error"]

_SHOWN_CHARACTERS = 60


def config_error(source: str, error: ValidationError) -> ConfigError:
    """One ``ConfigError`` for everything pydantic found wrong in ``source`` (a file or "environment").

    Only meant for models that hold no secret: what came is shown, shortened.
    """
    lines = []
    for finding in error.errors(include_url=False, include_context=False):
        path = ".".join(str(part) for part in finding["loc"])
        message = finding["msg"].removeprefix("Value error, ")
        if not path:
            lines.append(message)
        elif finding["type"] == "missing":
            lines.append(f"{path}: expected a value, but the field is missing")
        elif finding["type"] == "extra_forbidden":
            lines.append(f"{path}: there is no such setting; check its spelling and indentation")
        else:
            lines.append(f"{path}: {message}; got {_shown(finding['input'])}")
    return ConfigError(f"{source} is not valid:\n" + "\n".join(f"  - {line}" for line in lines))


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
