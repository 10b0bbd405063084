"""Jobs: what the parties registered, the key each gets, and the one session that each becomes."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from secure_runner.dealer.config import DealerLimits
from secure_runner.dealer.identity import Grant, Identity
from secure_runner.dealer.peers import Peer
from secure_runner.dealer.registration import Registration
from secure_runner.dealer.requests import Request, RequestError, parse_request
from secure_runner.dealer.seeds import SeedError, decrypt_seeds
from secure_runner.dealer.session import Session
from secure_runner.dealer.sm2 import PrivateKey
from secure_runner.dealer.transcript import Transcript
from secure_runner.errors import AgreementError, OverloadedError, ProgramError

__all__ = ["Job", "JobBook"]


class Job:
    """One SPU runtime to be, from the first registration to its end."""

    def __init__(self, registration: Registration, client: str, now_s: float) -> None:
        self.agreed = registration
        self.client = client
        self.handle = secrets.token_hex(16)
        self.key = PrivateKey()
        self.transcript: Transcript | None = None
        self.session: Session | None = None
        self.failure: str | None = None
        self.registered = asyncio.Event()
        """Set when all parties have registered, or the job failed."""
        self._seen_s: dict[str, float] = {}
        self._started_s = now_s

    @property
    def missing(self) -> list[str]:
        """What the job still waits for."""
        waiting = [party for party in self.agreed.parties if party not in self._seen_s]
        return waiting if waiting or self.transcript is not None else ["the transcript"]

    def add(self, registration: Registration, transcript: Transcript | None, now_s: float) -> None:
        """Take a party's registration in."""
        self._seen_s[registration.party] = now_s
        if self.transcript is None:
            self.transcript = transcript
        if not self.missing:
            self.registered.set()

    def seen(self, peer: Peer, now_s: float) -> None:
        """Renew the lease of the parties that the peer may be; without TLS, of all."""
        for party in self._seen_s:
            if peer.may_be(party):
                self._seen_s[party] = now_s

    def silent_since_s(self) -> float:
        """When the party that is silent for longest was last heard of."""
        return min(self._seen_s.values(), default=self._started_s)

    def fail(self, reason: str) -> None:
        """End the job for good; the first reason stays."""
        self.failure = self.failure or reason
        self.session = None
        self.registered.set()

    def status(self) -> dict[str, Any]:
        """For parties that ask after their job."""
        state = "failed" if self.failure else "waiting" if self.missing else "ready"
        served = self.session.served if self.session is not None else 0
        return {"job": self.agreed.job, "state": state, "reason": self.failure, "served": served}


class JobBook:
    """All jobs of a dealer.

    Args:
        identity: signs the grants.
        limits: how many, how large, for how long.
        now_s: a monotonic clock.
    """

    def __init__(
        self, identity: Identity, limits: DealerLimits, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._identity = identity
        self._limits = limits
        self._now_s = now_s
        self._jobs: dict[tuple[str, tuple[str, ...]], Job] = {}
        self._by_handle: dict[str, Job] = {}
        self._by_seeds: dict[tuple[str, ...], Job] = {}

    async def register(self, registration: Registration, peer: Peer) -> Grant:
        """Take a registration and wait, at most ``registration.wait_s``, until all parties agree.

        Raises:
            AgreementError: the peer is not that party, the parties registered different things, the name was
                used before, or the others did not come in time (register again then).
            ProgramError: the transcript is malformed, over a limit, or not of its digest.
            OverloadedError: too many jobs.
        """
        if not peer.may_be(registration.party):
            raise AgreementError(f"the certificate is not that of party {registration.party}")
        transcript = self._transcript(registration)
        job = self._job(registration, peer)
        job.add(registration, transcript, self._now_s())
        try:
            await asyncio.wait_for(job.registered.wait(), registration.wait_s)
        except asyncio.TimeoutError:
            raise AgreementError(
                f"job {registration.job} still waits for {', '.join(job.missing)}", code="agreement_pending"
            ) from None
        if job.failure is not None:
            raise AgreementError(job.failure)
        return self._identity.grant(job.agreed, job.handle, job.key.public_pem)

    def _transcript(self, registration: Registration) -> Transcript | None:
        if registration.transcript is None:
            return None
        transcript = Transcript.from_json(registration.transcript)
        if transcript.digest != registration.transcript_sha256:
            raise ProgramError(
                f"the transcript has digest {transcript.digest}, "
                f"registered is {registration.transcript_sha256}"
            )
        if not 0 < len(transcript.steps) <= self._limits.transcript_steps:
            raise ProgramError(f"expected 1 to {self._limits.transcript_steps} steps in the transcript")
        for step in transcript.steps:
            if sum(step.input_bytes) > self._limits.step_bytes:
                raise ProgramError(f"{step.describe()} is over the limit of {self._limits.step_bytes} bytes")
            if step.multiplications > self._limits.step_multiplications:
                raise ProgramError(f"{step.describe()} is over the limit of multiplications")
            if step.operation == "Perm" and step.owner >= len(registration.parties):
                raise ProgramError(f"{step.describe()} names a rank that there is not")
        return transcript

    def _job(self, registration: Registration, peer: Peer) -> Job:
        """The registration's job, a new one if it is the first."""
        name = (registration.job, registration.parties)
        job = self._jobs.get(name)
        if job is None:
            if len(self._jobs) >= self._limits.jobs:
                raise OverloadedError(f"the dealer has its limit of {self._limits.jobs} jobs")
            if sum(j.client == peer.client for j in self._jobs.values()) >= self._limits.jobs_per_client:
                raise OverloadedError(f"the limit is {self._limits.jobs_per_client} jobs for one client")
            job = self._jobs[name] = Job(registration, peer.client, self._now_s())
            self._by_handle[job.handle] = job
        elif job.agreed.agreed != registration.agreed:
            job.fail(f"job {registration.job}: the parties registered different transcripts or adjust ranks")
        elif job.session is not None or job.failure is not None:
            raise AgreementError(f"job name {registration.job} was used before; take a new one")
        return job

    # Sessions --------------------------------------------------------------------------------------------

    def session_of(self, operation: str, message: Any, peer: Peer) -> Session:
        """The session that a request belongs to; opens it with the first request.

        Raises:
            RequestError: malformed, or from a party that is not the adjusting one, or of no job.
            SeedError: its seeds belong to no job that waits for its session.
        """
        try:
            job = self._by_seeds.get(tuple(message["prg_inputs"][0]["encrypted_seeds"]))
        except (KeyError, TypeError, IndexError):
            job = None
        if job is None:
            job = self._open(parse_request(operation, message), peer)
        if job.session is None:
            raise RequestError(f"job {job.agreed.job} is over: {job.failure}")
        if not peer.may_be(job.agreed.parties[job.agreed.adjust_rank]):
            raise RequestError("the certificate is not that of the job's adjusting party")
        return job.session

    def relayed_session(self, handle: str, ciphertexts: Sequence[str], peer: Peer) -> Session:
        """The session of a job, for its adjusting party's relay; opens it with the first request.

        Raises:
            RequestError: no such job of the peer's, or it is over, waits for a party, or has another session.
            SeedError: the seeds are not under the job's key.
        """
        job = self._by_handle.get(handle)
        if job is None or not peer.may_be(job.agreed.parties[job.agreed.adjust_rank]):
            raise RequestError("no such job of this adjusting party; the dealer may have restarted")
        if job.failure is not None:
            raise RequestError(f"job {job.agreed.job} is over: {job.failure}")
        if job.missing:
            raise RequestError(f"job {job.agreed.job} still waits for {', '.join(job.missing)}")
        if job.session is None:
            if len(ciphertexts) != len(job.agreed.parties):
                raise RequestError(f"expected one seed for each of the {len(job.agreed.parties)} parties")
            return self._open_session(job, ciphertexts)
        if job.session.ciphertexts != tuple(ciphertexts):
            raise RequestError(f"job {job.agreed.job} has its session, with other seeds")
        return job.session

    def _open(self, request: Request, peer: Peer) -> Job:
        """Find whose key the seeds are under, among the jobs that wait for their session from this peer."""
        for job in self._waiting_jobs(peer, len(request.ciphertexts)):
            try:
                self._open_session(job, request.ciphertexts)
            except SeedError:
                continue
            return job
        raise SeedError(
            "the seeds belong to no job that waits for its session: it is not registered by all parties, has "
            "ended, or has another key"
        )

    def _open_session(self, job: Job, ciphertexts: Sequence[str]) -> Session:
        assert job.transcript is not None
        seeds = decrypt_seeds(job.key, ciphertexts)
        job.session = Session(
            job.transcript, seeds, ciphertexts, lookahead_bytes=self._limits.lookahead_bytes
        )
        self._by_seeds[job.session.ciphertexts] = job
        return job.session

    def _waiting_jobs(self, peer: Peer, party_count: int) -> Iterator[Job]:
        for job in list(self._jobs.values()):
            agreed = job.agreed
            unused = job.session is None and job.failure is None and not job.missing
            if (
                unused
                and len(agreed.parties) == party_count
                and peer.may_be(agreed.parties[agreed.adjust_rank])
            ):
                yield job

    # The end of jobs -------------------------------------------------------------------------------------

    def fail(self, message: Any, reason: str) -> None:
        """End the job of a request that was refused: after it, the parties' masks no longer match."""
        try:
            job = self._by_seeds.get(tuple(message["prg_inputs"][0]["encrypted_seeds"]))
        except (KeyError, TypeError, IndexError):
            return
        if job is not None:
            job.fail(reason)

    def status(self, handle: str, peer: Peer) -> dict[str, Any] | None:
        """How a job is doing, and a sign of life of the peer. None: there is no such job of the peer's."""
        job = self._by_handle.get(handle)
        if job is None or not any(peer.may_be(party) for party in job.agreed.parties):
            return None
        job.seen(peer, self._now_s())
        return job.status()

    def end(self, handle: str, peer: Peer) -> bool:
        """Forget a job because a party says so. False: there is no such job of the peer's."""
        if self.status(handle, peer) is None:
            return False
        self._forget(self._by_handle[handle], "a party ended the job")
        return True

    def expire(self) -> None:
        """Forget all jobs one of whose parties has been silent for longer than the lease."""
        oldest_s = self._now_s() - self._limits.lease_s
        for job in list(self._jobs.values()):
            if job.silent_since_s() < oldest_s:
                self._forget(job, "a party was silent for longer than the lease")

    def _forget(self, job: Job, reason: str) -> None:
        job.fail(reason)
        del self._jobs[job.agreed.job, job.agreed.parties]
        del self._by_handle[job.handle]
        self._by_seeds = {seeds: other for seeds, other in self._by_seeds.items() if other is not job}
