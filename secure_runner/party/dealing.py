"""A computing party and its dealer: one registered job for each executable, and a watch over all of them.

At the adjusting party, a relay in this process fetches each job's corrections ahead of need: SPU's runtime
gets them over loopback, and a run waits for no round trip to the dealer.

Each executable gets an SPU runtime, and so a dealer's session, of its own: the dealer then knows at every
moment which request comes next. With several executables in one session, a party that asks for the
corrections of one while its peer runs another would learn masks.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from secure_runner.dealer import (
    DealerClient,
    JobWatch,
    Registration,
    Relay,
    TlsFiles,
    Transcript,
    beaver_config,
)
from secure_runner.errors import ProgramError

if TYPE_CHECKING:
    from secure_runner.party.spec import SessionSpec
    from secure_runner.programs.manifest import ExecutableSpec

__all__ = ["Dealing"]

_ADJUST_RANK = 0
"""The model owner asks the dealer for corrections: with a pinned transcript it learns nothing by it."""
_WAIT_S = 20.0


class Dealing:
    """This party's jobs at the dealer, for one session.

    Args:
        spec: of the session; its settings pin the dealer's identity.
        on_lost: called once if the dealer or a job is lost, with the reason.
    """

    def __init__(self, spec: SessionSpec, on_lost: Callable[[str], None]) -> None:
        cluster = spec.settings.cluster
        assert cluster.dealer is not None
        assert spec.settings.dealer_key is not None
        self._spec = spec
        self._on_lost = on_lost
        self._address = str(cluster.dealing())
        self._identity = spec.settings.dealer_key
        self._server_name = cluster.dealer
        self._tls = self._tls_files()
        self._watches: list[JobWatch] = []

    def register(self, entry: ExecutableSpec) -> dict[str, Any]:
        """Register one executable's job together with the other party; SPU's ``ttp_beaver_config`` for it.

        Raises:
            ProgramError: the program was built without transcripts.
            AgreementError, UnavailableError, OverloadedError: as the dealer answers.
        """
        if entry.transcript_file is None or entry.transcript_sha256 is None:
            raise ProgramError(
                "this program was built without transcripts, which a dealer needs: "
                "save the model again with protocol semi2k"
            )
        transcript = Transcript.from_json(
            orjson.loads((Path(self._spec.program_dir) / entry.transcript_file).read_bytes())
        )
        registration = Registration(
            job=f"{self._spec.session_id}/{entry.batch_size}",
            parties=self._spec.parties,
            rank=self._spec.rank,
            adjust_rank=_ADJUST_RANK,
            transcript_sha256=entry.transcript_sha256,
            wait_s=_WAIT_S,
        )
        client = self._client()
        grant = client.register(registration, transcript)
        # A dealer that is only slow, computing large steps on busy cores, must not be taken for a dead one.
        patience_s = self._spec.settings.cluster.timeouts.freeze_timeout_s
        watch = JobWatch(client, grant.handle, self._on_lost, timeout_s=patience_s)
        watch.start()
        self._watches.append(watch)
        if self._spec.rank == _ADJUST_RANK:
            relay = Relay(self._client(), grant.handle, transcript, self._on_lost)
            return beaver_config(relay.address, _ADJUST_RANK, grant.public_key)
        # SPU's runtime never asks here, but it wants an address.
        return beaver_config(self._address, _ADJUST_RANK, grant.public_key, tls=self._tls)

    def _client(self) -> DealerClient:
        return DealerClient(self._address, self._identity, tls=self._tls, server_name=self._server_name)

    def _tls_files(self) -> TlsFiles | None:
        settings = self._spec.settings
        if settings.cluster.tls is None:
            return None
        assert settings.tls_certificate_file is not None
        assert settings.tls_key_file is not None
        return TlsFiles(
            certificate_file=settings.tls_certificate_file,
            key_file=settings.tls_key_file,
            ca_file=settings.trust_file(self._server_name),
        )
