"""What the HTTP side asks of the runner, and what it tells those who watch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt

from secure_runner.programs.manifest import Manifest

__all__ = ["Arrays", "Observer", "Predictor", "RequestOutcome"]

Arrays = dict[str, npt.NDArray[Any]]


class Predictor(Protocol):
    """The runner, as seen from an HTTP request."""

    manifest: Manifest

    async def predict(
        self,
        inputs: Arrays,
        *,
        request_id: str,
        deadline_s: float | None,
        client: str | None,
        repeatable: bool,
    ) -> Arrays:
        """Compute one batch.

        Args:
            inputs: by name of ``manifest.inputs``, of the manifest's dtypes and shapes, C-ordered, validated.
            request_id: chosen by the client or by the service. Two clients may choose the same one: whoever
                removes duplicates must use the pair of ``client`` and ``request_id`` as the key.
            deadline_s: seconds from now after which nobody waits for the answer any more.
            client: who asks, as authenticated; ``None`` where authentication is off.
            repeatable: whether the same request may come again under its id. Nobody knows an id that the
                service made before its answer is there.

        Returns:
            By name of ``manifest.outputs``, with as many rows as the inputs.

        Raises:
            InputError, OverloadedError, UnavailableError, DeadlineError: of `secure_runner.errors`.
        """

    async def ready(self) -> tuple[bool, str]:
        """Whether a request would be computed now, and if not, why not."""


@dataclass(frozen=True)
class RequestOutcome:
    """What can be told of one request without telling any of its values."""

    endpoint: str
    request_id: str
    client: str | None
    status: int
    code: str
    """``ok``, or a code of `secure_runner.http.codes.ERROR_CODES`."""
    rows: int
    request_bytes: int
    response_bytes: int
    duration_s: float


Observer = Callable[[RequestOutcome], None]
