"""Jobs: agreement of the parties, leases, limits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from secure_runner.dealer.config import DealerLimits
from secure_runner.dealer.identity import Grant, Identity
from secure_runner.dealer.jobs import JobBook
from secure_runner.dealer.peers import Peer
from secure_runner.dealer.registration import Registration
from secure_runner.dealer.steps import Step
from secure_runner.dealer.transcript import Transcript
from secure_runner.errors import AgreementError, OverloadedError, ProgramError

_TRANSCRIPT = Transcript.of([Step("Mul", 8, (4,))])
_ANYONE = Peer("127.0.0.1", None)
_IDENTITY = Identity()


class _Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def _registration(rank: int, **changes: Any) -> Registration:
    fields: dict[str, Any] = {
        "job": "epoch-1",
        "parties": ("one", "two"),
        "rank": rank,
        "adjust_rank": 1,
        "transcript_sha256": _TRANSCRIPT.digest,
        "wait_s": 0.05,
    }
    return Registration(**(fields | changes))


def _with_transcript(rank: int, **changes: Any) -> Registration:
    return _registration(rank, transcript=_TRANSCRIPT.to_json(), **changes)


def _book(clock: Callable[[], float] | None = None, **limits: Any) -> JobBook:
    return JobBook(_IDENTITY, DealerLimits(**limits), clock or _Clock())


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


async def _both(book: JobBook, first: Registration, second: Registration) -> list[Any]:
    return await asyncio.gather(
        book.register(first, _ANYONE), book.register(second, _ANYONE), return_exceptions=True
    )


def test_both_get_the_same_signed_grant() -> None:
    """One transcript is enough, and the grant verifies against what each registered."""
    one, two = _run(_both(_book(), _registration(0), _with_transcript(1)))

    assert isinstance(one, Grant)
    assert one == two
    one.verify(_IDENTITY.public_key, _registration(0))


def test_grants_cover_what_was_registered() -> None:
    """A grant for something else, a changed key or another dealer's signature is refused."""
    grant, _ = _run(_both(_book(), _registration(0), _with_transcript(1)))

    for other in ({"job": "epoch-2"}, {"adjust_rank": 0}, {"transcript_sha256": "0" * 64}):
        with pytest.raises(AgreementError, match="another job, parties or transcript"):
            grant.verify(_IDENTITY.public_key, _registration(0, **other))
    for forged in ({"public_key": "x"}, {"handle": "0" * 32}, {"signature": ""}, {"signature": "*"}):
        with pytest.raises(AgreementError, match="not signed"):
            grant.model_copy(update=forged).verify(_IDENTITY.public_key, _registration(0))
    with pytest.raises(AgreementError, match="not signed"):
        grant.verify(Identity().public_key, _registration(0))


@pytest.mark.parametrize("change", [{"adjust_rank": 0}, {"transcript_sha256": "0" * 64}])
def test_disagreement_fails_the_job_for_both(change: dict[str, Any]) -> None:
    """Whoever waits is told at once."""
    answers = _run(_both(_book(), _with_transcript(0, wait_s=5), _registration(1, **change)))

    assert all(isinstance(answer, AgreementError) for answer in answers)


def test_other_parties_have_other_jobs() -> None:
    """A job's name is taken only among its own parties: nobody else can get in its way."""
    answers = _run(_both(_book(), _with_transcript(0), _with_transcript(1, parties=("three", "two"))))

    assert ["still waits for two" in str(answers[0]), "still waits for three" in str(answers[1])] == [
        True,
        True,
    ]


def test_a_missing_transcript_is_waited_for() -> None:
    """Digests alone do not make a job."""
    answers = _run(_both(_book(), _registration(0), _registration(1)))

    assert all("still waits for the transcript" in str(answer) for answer in answers)
    assert answers[0].code == "agreement_pending"


def test_transcripts_are_checked() -> None:
    """Against their digest, and against the limits."""
    huge = Transcript.of([Step("Dot", 8, (1 << 16, 1 << 16, 1 << 16))])
    stray = Transcript.of([Step("Perm", 8, (4, 2))])
    empty = Transcript.of([])
    for transcript, digest, message in (
        (_TRANSCRIPT, "0" * 64, "has digest"),
        (huge, huge.digest, "over the limit"),
        (stray, stray.digest, "a rank that there is not"),
        (empty, empty.digest, "expected 1 to"),
    ):
        registration = _registration(0, transcript_sha256=digest, transcript=transcript.to_json())
        with pytest.raises(ProgramError, match=message):
            _run(_book().register(registration, _ANYONE))


def test_certificates_decide_who_registers() -> None:
    """A party registers for its own rank only."""
    with pytest.raises(AgreementError, match="not that of party two"):
        _run(_book().register(_with_transcript(1), Peer("10.0.0.1", frozenset({"one"}))))


def test_jobs_are_limited() -> None:
    """In total and for each client; names are not counted twice."""

    async def register_many(book: JobBook) -> None:
        for index in range(3):
            with pytest.raises(AgreementError):
                await book.register(_with_transcript(0, job=f"job-{index % 2}", wait_s=0), _ANYONE)
        await book.register(_with_transcript(0, job="job-2", wait_s=0), _ANYONE)

    with pytest.raises(OverloadedError, match="limit of 2 jobs"):
        _run(register_many(_book(jobs=2)))
    with pytest.raises(OverloadedError, match="2 jobs for one client"):
        _run(register_many(_book(jobs_per_client=2)))


def test_a_job_ends_when_a_party_is_silent() -> None:
    """Each party keeps its own lease by asking after the job; one silent party is enough to end it."""
    clock = _Clock()

    async def scenario() -> list[Any]:
        book = _book(clock, lease_s=10)
        one, two = (Peer("10.0.0.1", frozenset({name})) for name in ("one", "two"))
        grant, _ = await asyncio.gather(
            book.register(_with_transcript(0), one), book.register(_registration(1), two)
        )
        states = []
        for peers in ([one, two], [one, two], [one], [one], [one]):
            clock.now_s += 6
            for peer in peers:
                status = book.status(grant.handle, peer)
                states.append(status and status["state"])
            book.expire()
        return states

    assert _run(scenario()) == ["ready"] * 6 + [None]


def test_a_name_is_used_once() -> None:
    """After an ended job the name is free; while the job lives, registering again changes nothing."""

    async def scenario() -> None:
        book = _book()
        grant, _ = await _both(book, _with_transcript(0), _registration(1))
        again, _ = await _both(book, _with_transcript(0), _registration(1))
        assert again == grant
        assert book.end(grant.handle, _ANYONE)
        assert book.status(grant.handle, _ANYONE) is None
        assert not book.end(grant.handle, _ANYONE)

    _run(scenario())
