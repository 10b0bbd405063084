"""Every error that this package raises to its users.

    SecureRunnerError
    ├── ConfigError            a configuration file, setting or certificate is wrong
    ├── ProgramError           a program or its params cannot be made, read or trusted
    │   └── LeakError          a build would put a weight into the public program
    ├── AgreementError         the parties do not hold the same cluster, program or versions
    ├── InputError             a request is wrong; nothing was computed (HTTP 4xx)
    ├── OverloadedError        a queue or a limit is full; try later (HTTP 429)
    ├── UnavailableError       no session is ready, or it ended under the request (HTTP 503)
    └── DeadlineError          the request's deadline passed (HTTP 504)

No message carries a value of a feature, a weight, a share or a key: messages cross organisations and reach
logs. They name what was expected, what came (shape, dtype, count), where, and what to do.
"""

from __future__ import annotations

__all__ = [
    "AgreementError",
    "ConfigError",
    "DeadlineError",
    "InputError",
    "LeakError",
    "OverloadedError",
    "ProgramError",
    "SecureRunnerError",
    "UnavailableError",
]


class SecureRunnerError(Exception):
    """Base of all errors of this package.

    ``code`` is stable and documented; clients and dashboards may rely on it. ``http_status`` is what the
    data owner's service answers with.
    """

    code = "internal"
    http_status = 500

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class ConfigError(SecureRunnerError):
    """A configuration file, setting or certificate is missing, malformed or contradicts another."""

    code = "config"


class ProgramError(SecureRunnerError):
    """A program or its params cannot be compiled, read or trusted."""

    code = "program"


class LeakError(ProgramError):
    """A build was stopped because a trained value would have become part of the public program."""

    code = "leak"


class AgreementError(SecureRunnerError):
    """Two parties hold different clusters, programs, protocol configurations, versions or clocks."""

    code = "agreement"


class InputError(SecureRunnerError):
    """A request that cannot be computed as it came. Nothing was shared and nothing was lost."""

    code = "bad_input"
    http_status = 400

    def __init__(self, message: str, *, code: str | None = None, http_status: int | None = None) -> None:
        super().__init__(message, code=code)
        if http_status is not None:
            self.http_status = http_status


class OverloadedError(SecureRunnerError):
    """A bounded queue or a limit is full. ``retry_after_s`` says when another try makes sense."""

    code = "overloaded"
    http_status = 429

    def __init__(self, message: str, *, retry_after_s: float = 1.0, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after_s = retry_after_s


class UnavailableError(SecureRunnerError):
    """No session is ready, or the session ended under the request. ``retry_after_s`` as above."""

    code = "unavailable"
    http_status = 503

    def __init__(self, message: str, *, retry_after_s: float = 1.0, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after_s = retry_after_s


class DeadlineError(SecureRunnerError):
    """The request's deadline passed before its answer was there. The answer, if any comes, is dropped."""

    code = "deadline"
    http_status = 504
