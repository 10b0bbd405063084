"""Where a runner's records go, from the environment."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from secure_runner.observe.logs import set_up_logs
from secure_runner.observe.traces import set_up_tracing

__all__ = ["VARIABLES", "audit_directory", "set_up"]

VARIABLES: dict[str, str] = {
    "SECURE_RUNNER_AUDIT_DIR": "directory of the audit logs",
    "SECURE_RUNNER_LOG_FORMAT": "text or json",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "OpenTelemetry collector that traces are sent to",
}
"""Every variable that is read here."""


def audit_directory(environment: Mapping[str, str], *, embedded: bool) -> Path | None:
    """Where audit logs are kept.

    ``SECURE_RUNNER_AUDIT_DIR`` says where. Without it, a party of a cluster keeps them in the user's state
    directory (of the XDG base directories), for a party without an audit log cannot account for anything;
    an embedded deployment, which is for trials, keeps none.
    """
    named = environment.get("SECURE_RUNNER_AUDIT_DIR")
    if named:
        return Path(named)
    if embedded:
        return None
    state = environment.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "secure-runner" / "audit"


def set_up(environment: Mapping[str, str], service: str) -> None:
    """Logs and traces of a server process.

    Raises:
        ConfigError: a variable has a value that it cannot have.
    """
    set_up_logs(environment, logging.getLogger("secure_runner"))
    set_up_tracing(environment, service)
