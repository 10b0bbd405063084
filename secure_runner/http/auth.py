"""Who asks: bearer tokens (RFC 6750), known by their SHA-256 digests only."""

from __future__ import annotations

import hashlib
import hmac

from secure_runner.http.codes import RequestError
from secure_runner.http.settings import HttpSettings

__all__ = ["Authenticator"]

_SCHEME = "bearer "


class Authenticator:
    """Names the client of a request, or refuses it."""

    def __init__(self, settings: HttpSettings) -> None:
        self._by_token = settings.authentication == "tokens"
        self._name_without_token = "mtls" if settings.authentication == "mtls" else None
        self._digests = [(client.name, bytes.fromhex(client.token_sha256)) for client in settings.clients]

    def client_of(self, authorization: str | None) -> str | None:
        """The name of the client whose token the Authorization header carries; ``None`` if nobody needs one.

        The token's digest is compared with every known one in constant time, so that the time says neither
        how much of a token is right nor whose it is.

        Raises:
            RequestError: ``unauthorized``.
        """
        if not self._by_token:
            return self._name_without_token
        if authorization is None or not authorization.lower().startswith(_SCHEME):
            raise RequestError(
                "unauthorized", "this service needs a token: send Authorization: Bearer <token>"
            )
        digest = hashlib.sha256(authorization[len(_SCHEME) :].strip().encode()).digest()
        found = None
        for name, known in self._digests:
            if hmac.compare_digest(digest, known):
                found = name
        if found is None:
            raise RequestError("unauthorized", "the token is not known here")
        return found
