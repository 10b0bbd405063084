"""What a party says to the dealer itself: registration, questions after a job, and a watch on it.

SPU's own client has no time limit that helps: with a hung dealer it blocks for up to 300 s in native code,
and the other party waits for the first. So a party watches its job over a connection of its own and gives
up its process when the dealer does not answer: :class:`JobWatch`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import httpx
from pydantic import ValidationError

from secure_runner.dealer.config import TlsFiles
from secure_runner.dealer.identity import Grant, check_public_key
from secure_runner.dealer.registration import Registration
from secure_runner.dealer.requests import CORRECTIONS_SUFFIX
from secure_runner.dealer.transcript import Transcript
from secure_runner.errors import AgreementError, OverloadedError, SecureRunnerError, UnavailableError

__all__ = ["DealerClient", "JobWatch"]

_CONNECT_TIMEOUT_S = 5.0
_ANSWER_TIMEOUT_S = 10.0
_CORRECTIONS_TIMEOUT_S = 300.0
"""SPU's own limit: a huge correction may take long. A dealer that hangs is noticed by the job's watch."""


class DealerClient:
    """A party's connection to the dealer.

    Args:
        address: ``host:port``.
        identity: the dealer's identity key, base64, from this party's own configuration and from nowhere
        else. tls: this party's files; None only where the dealer listens on loopback without TLS.
        server_name: name that the dealer's certificate must bear; None takes the address's host.
    """

    def __init__(
        self,
        address: str,
        identity: str,
        *,
        tls: TlsFiles | None = None,
        server_name: str | None = None,
    ) -> None:
        check_public_key(identity)
        self.address = address
        self._identity = identity
        scheme = "http" if tls is None else "https"
        # No proxy, no environment: the dealer is reached directly or not at all.
        self._http = httpx.Client(
            base_url=f"{scheme}://{address}",
            verify=True if tls is None else tls.client_context(),
            timeout=httpx.Timeout(_ANSWER_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S),
            trust_env=False,
        )
        self._extensions = {} if server_name is None else {"sni_hostname": server_name}

    def register(self, registration: Registration, transcript: Transcript | None = None) -> Grant:
        """Register a job and wait, at most ``registration.wait_s``, for the other parties to do the same.

        Registering the same again is harmless, until the job's SPU runtime has sent its first request.

        Args:
            registration: what this party agreed to.
            transcript: the transcript itself; at least one party has to give it.

        Raises:
            AgreementError: the parties disagree, or the others did not come in time (``code``
                ``agreement_pending``: try again), or the grant is not the pinned dealer's.
            OverloadedError: the dealer is full.
            UnavailableError: the dealer does not answer.
        """
        body = registration.model_dump(mode="json", exclude={"transcript"})
        if transcript is not None:
            body["transcript"] = transcript.to_json()
        answer = self._call("POST", "/jobs", json=body, timeout_s=registration.wait_s + _ANSWER_TIMEOUT_S)
        try:
            grant = Grant.model_validate(answer)
        except ValidationError:
            raise AgreementError(f"the answer of {self.address} is not a dealer's grant") from None
        grant.verify(self._identity, registration)
        return grant

    def status(self, handle: str, *, timeout_s: float = _ANSWER_TIMEOUT_S) -> dict[str, Any]:
        """How a job is doing: ``job``, ``state`` (``waiting``, ``ready``, ``failed``), ``reason``,
        ``served``.

        Raises:
            UnavailableError: the dealer does not answer, or does not know the job (it restarted).
        """
        answer: dict[str, Any] = self._call("GET", f"/jobs/{handle}", timeout_s=timeout_s)
        return answer

    def corrections(self, handle: str, first: int, ciphertexts: Sequence[str]) -> bytes:
        """The corrections of a job's session that come next, as many as the dealer has computed by now.

        For the adjusting party alone. Asking again with the same ``first`` gets the same bytes, so an answer
        that got lost with its connection is asked for once more.

        Args:
            handle: of the grant.
            first: how many corrections the session has handed out before.
            ciphertexts: the parties' seeds under the job's key, in rank order.

        Returns:
            At least one correction, in SPU's frames, one after another.

        Raises:
            AgreementError: the dealer refuses; the job is over.
            UnavailableError: the dealer does not answer.
        """
        path = f"/jobs/{handle}{CORRECTIONS_SUFFIX}"
        question = {"first": first, "encrypted_seeds": list(ciphertexts)}
        try:
            return self._content(path, question)
        except UnavailableError:
            return self._content(path, question)

    def end(self, handle: str) -> None:
        """Tell the dealer that the job is over.

        Raises:
            UnavailableError: the dealer does not answer, or does not know the job.
        """
        self._call("DELETE", f"/jobs/{handle}")

    def is_alive(self, *, timeout_s: float = 1.0) -> bool:
        """Whether the dealer answers within the time."""
        try:
            self._call("GET", "/livez", timeout_s=timeout_s)
        except SecureRunnerError:
            return False
        return True

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def __enter__(self) -> DealerClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _call(self, method: str, path: str, *, json: Any = None, timeout_s: float = _ANSWER_TIMEOUT_S) -> Any:
        return self._json(self._request(method, path, json=json, timeout_s=timeout_s))

    def _request(
        self, method: str, path: str, *, json: Any = None, timeout_s: float = _ANSWER_TIMEOUT_S
    ) -> httpx.Response:
        try:
            response = self._http.request(
                method, path, json=json, timeout=timeout_s, extensions=dict(self._extensions)
            )
        except httpx.HTTPError as error:
            raise self._no_answer(error) from None
        if response.status_code == httpx.codes.OK:
            return response
        raise self._refusal(response)

    def _content(self, path: str, question: Any) -> bytes:
        """The body of the answer to a long question.

        Read as a stream: a whole answer of ``httpx`` is in a cycle of references, and megabytes of it would
        stay until the garbage collector comes by.
        """
        asking = self._http.stream(
            "POST", path, json=question, timeout=_CORRECTIONS_TIMEOUT_S, extensions=dict(self._extensions)
        )
        try:
            with asking as response:
                if response.status_code == httpx.codes.OK:
                    return b"".join(response.iter_raw())
                response.read()
        except httpx.HTTPError as error:
            raise self._no_answer(error) from None
        raise self._refusal(response)

    def _refusal(self, response: httpx.Response) -> SecureRunnerError:
        answer = self._json(response)
        message = f"dealer at {self.address}: {answer.get('message', 'refused')}"
        if response.status_code == httpx.codes.CONFLICT:
            return AgreementError(message, code=answer.get("error"))
        if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
            return OverloadedError(message)
        return UnavailableError(message, code=answer.get("error"))

    def _json(self, response: httpx.Response) -> Any:
        try:
            return response.json()
        except ValueError as error:
            raise self._no_answer(error) from None

    def _no_answer(self, error: Exception) -> UnavailableError:
        return UnavailableError(f"no answer from the dealer at {self.address}: {type(error).__name__}")


class JobWatch:
    """Asks after a job in a thread, and tells once when it is lost.

    A dealer that is down, hung or restarted, and a job that the dealer has refused to go on with, are noticed
    within ``interval_s + timeout_s``. The questions also keep the job's lease.

    Args:
        client: for this watch alone.
        handle: of the grant.
        on_lost: called once, in the watch's thread, with the reason. A party process ends itself there.
        interval_s: pause between questions.
        timeout_s: how long an answer may take.
    """

    def __init__(
        self,
        client: DealerClient,
        handle: str,
        on_lost: Callable[[str], None],
        *,
        interval_s: float = 0.3,
        timeout_s: float = 0.7,
    ) -> None:
        self._client = client
        self._handle = handle
        self._on_lost = on_lost
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="dealer-watch", daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """Ask no more; returns when the thread has ended."""
        self._stop.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(self._interval_s):
            reason = self._problem()
            if reason is not None and not self._stop.is_set():
                self._on_lost(reason)
                return

    def _problem(self) -> str | None:
        try:
            status = self._client.status(self._handle, timeout_s=self._timeout_s)
        except SecureRunnerError as error:
            return str(error)
        return status["reason"] if status["state"] == "failed" else None
