"""Logs as JSON lines, with the ids that traces and audit entries have."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from secure_runner.errors import ConfigError

__all__ = ["LOG_FORMAT", "JsonFormatter", "set_up_logs"]

LOG_FORMAT = "%(asctime)s %(levelname)s party[%(process)d] %(message)s"
"""Of a party process's text lines."""

_VARIABLE = "SECURE_RUNNER_LOG_FORMAT"
_OWN_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, process, message, and whatever ``extra`` was given.

    Of an exception its type and places are written, not its message: a library's may quote a value.

    Args:
        fields: the same in each line, for example the session.
    """

    def __init__(self, fields: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self._fields = dict(fields or {})

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its line feed."""
        from secure_runner.observe.traces import current_traceparent, trace_id_of

        time = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        document: dict[str, Any] = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
            **self._fields,
        }
        traceparent = current_traceparent()
        if traceparent:
            document["trace_id"] = trace_id_of(traceparent)
        document |= {name: value for name, value in vars(record).items() if name not in _OWN_FIELDS}
        if record.exc_info and record.exc_info[0] is not None:
            document["exception"] = record.exc_info[0].__name__
            document["at"] = _places(record)
        return json.dumps(document, default=lambda value: type(value).__name__)


def set_up_logs(
    environment: Mapping[str, str],
    logger: logging.Logger,
    *,
    plain: str | None = None,
    fields: Mapping[str, Any] | None = None,
) -> None:
    """Give a logger one handler of its own, to the standard error stream.

    Args:
        environment: ``SECURE_RUNNER_LOG_FORMAT`` is ``json``, or ``text`` (the default).
        logger: the root of a party process, or ``secure_runner`` of a server.
        plain: format of text lines. Without one, text is left to whoever has set up logging already.
        fields: of every JSON line.

    Raises:
        ConfigError: the variable has another value.
    """
    chosen = environment.get(_VARIABLE) or "text"
    if chosen not in ("json", "text"):
        raise ConfigError(f"{_VARIABLE} is json or text, not {chosen!r}")
    if chosen == "text" and plain is None:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter(fields) if chosen == "json" else logging.Formatter(plain))
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(logging.INFO)
    # It writes a line for each request, with its path: a party asks its dealer several times a second, and
    # has the handle of a job in the path.
    logging.getLogger("httpx").setLevel(logging.WARNING)


def _places(record: logging.LogRecord) -> list[str]:
    places = []
    traceback = record.exc_info[2] if record.exc_info else None
    while traceback is not None:
        code = traceback.tb_frame.f_code
        places.append(f"{code.co_filename.rsplit('/', 1)[-1]}:{traceback.tb_lineno}")
        traceback = traceback.tb_next
    return places
