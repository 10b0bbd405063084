"""What a malicious adjusting party, or a replayed seed, could do to the other party, and what stops it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks.adjusting_party import AdjustingParty, RefusedError, seal, share_sums
from benchmarks.dealt_parties import register
from secure_runner.dealer import (
    DealerClient,
    DealerConfig,
    DealerProcess,
    Registration,
    Transcript,
    recording_dealer,
)
from secure_runner.dealer.steps import Step
from secure_runner.errors import AgreementError, ConfigError

_COUNT = 16
_MUL = Step("Mul", 8, (_COUNT,))
_RAND_BIT = Step("RandBit", 8, (_COUNT,))
_TRANSCRIPT = Transcript.of([_MUL, _RAND_BIT])
_jobs = iter(range(1_000_000))


@pytest.fixture(scope="module")
def dealer() -> Iterator[DealerProcess]:
    with DealerProcess(DealerConfig()) as process:
        yield process


def _job(dealer: DealerProcess, transcript: Transcript = _TRANSCRIPT) -> tuple[str, str, str]:
    """Name, handle and key of a job that both parties have registered."""
    name = f"attack-{next(_jobs)}"
    (grant, _) = register(dealer.address, dealer.public_key, name, transcript)
    return name, grant.handle, grant.public_key


def _seal_both(key: str) -> tuple[list[bytes], list[str]]:
    seeds = [os.urandom(16), os.urandom(16)]
    return seeds, [seal(key, seed) for seed in seeds]


def _recovered_mask(answer: bytes, own_mask: np.ndarray) -> np.ndarray:
    """RandBit's answer is bit - (own mask + other mask): the other's mask up to one bit."""
    return np.zeros(_COUNT, np.uint64) - np.frombuffer(answer, np.uint64) - own_mask


def test_unpinned_dealer_gives_the_other_partys_mask_away() -> None:
    """The attack works where nothing is pinned, so that the next test shows that pinning is what stops it."""
    with recording_dealer() as recorder:
        key = recorder.beaver_config()["server_public_key"]
        seeds, ciphertexts = _seal_both(key)
        attacker = AdjustingParty(recorder.address, ciphertexts)
        answer = attacker.ask_at(_RAND_BIT, 0)
    own, victims = share_sums(seeds, 0, _MUL)[0]

    recovered = _recovered_mask(answer, own)

    assert np.all((victims - recovered) <= 1)


def test_randbit_over_a_multiplications_mask_is_refused(dealer: DealerProcess) -> None:
    """A registered job refuses it before anything is revealed, and the job is over."""
    _, handle, key = _job(dealer)
    _, ciphertexts = _seal_both(key)
    attacker = AdjustingParty(dealer.address, ciphertexts)

    with pytest.raises(RefusedError, match=r"expected step 1 of 2, Mul.*asked for RandBit"):
        attacker.ask_at(_RAND_BIT, 0)

    with pytest.raises(RefusedError, match="is over"):
        attacker.ask_at(_MUL, 0)
    with DealerClient(dealer.address, dealer.public_key) as client:
        assert client.status(handle)["state"] == "failed"


@pytest.mark.parametrize(
    ("step", "counter"),
    [
        (Step("Mul", 8, (_COUNT,)), 8),
        (Step("Mul", 8, (2 * _COUNT,)), 0),
        (Step("Mul", 4, (2 * _COUNT,)), 0),
        (Step("Square", 8, (_COUNT,)), 0),
        (Step("MulPriv", 8, (_COUNT,)), 0),
        (Step("Perm", 8, (_COUNT, 0)), 0),
        (Step("TruncPr", 8, (_COUNT, 18)), 0),
    ],
    ids=lambda value: value.operation if isinstance(value, Step) else str(value),
)
def test_any_deviation_is_refused(dealer: DealerProcess, step: Step, counter: int) -> None:
    """Another place, size, element size or operation than the next of the transcript."""
    _, _, key = _job(dealer)
    attacker = AdjustingParty(dealer.address, _seal_both(key)[1])

    with pytest.raises(RefusedError, match="outside the registered transcript"):
        attacker.ask_at(step, counter)


def test_a_range_answers_one_question_only(dealer: DealerProcess) -> None:
    """Repeating the last request, on a new connection, gives the same bytes, RandBit's too; asking
    differently ends the job."""
    _, _, key = _job(dealer)
    ciphertexts = _seal_both(key)[1]
    party, again = (AdjustingParty(dealer.address, ciphertexts) for _ in range(2))
    first = party.ask(_MUL)
    assert again.ask_at(_MUL, 0) == first
    bits_at = party.counter
    bits = party.ask(_RAND_BIT)
    assert again.ask_at(_RAND_BIT, bits_at) == bits

    with pytest.raises(RefusedError, match="outside the registered transcript"):
        party.ask_at(_MUL, 0)


def test_a_seed_of_one_session_is_worthless_in_another(dealer: DealerProcess) -> None:
    """The victim's ciphertext is refused beside another one, in another job, and after its job's end."""
    _, handle, key = _job(dealer)
    _, ciphertexts = _seal_both(key)
    AdjustingParty(dealer.address, ciphertexts).ask(_MUL)
    _, _, other_key = _job(dealer)
    own = seal(other_key, os.urandom(16))

    for replayed in (
        [seal(key, os.urandom(16)), ciphertexts[1]],
        [own, ciphertexts[1]],
        list(reversed(ciphertexts)),
    ):
        with pytest.raises(RefusedError, match="no job") as refused:
            AdjustingParty(dealer.address, replayed).ask(_MUL)
        assert refused.value.code == 2
    with DealerClient(dealer.address, dealer.public_key) as client:
        client.end(handle)
    with pytest.raises(RefusedError, match="no job"):
        AdjustingParty(dealer.address, ciphertexts).ask_at(_MUL, 0)


def test_a_party_cannot_take_the_others_seed_for_its_own(dealer: DealerProcess) -> None:
    """Neither the same ciphertext twice nor the same seed sealed twice opens a session."""
    _, _, key = _job(dealer)
    seed = os.urandom(16)
    once = seal(key, seed)

    with pytest.raises(RefusedError, match="two parties cannot have the same"):
        AdjustingParty(dealer.address, [once, once]).ask(_MUL)
    with pytest.raises(RefusedError, match="no job"):
        AdjustingParty(dealer.address, [once, seal(key, seed)]).ask(_MUL)


def test_nothing_is_served_before_both_parties_registered(dealer: DealerProcess) -> None:
    """One party alone gets no key, so that it cannot even try."""
    registration = Registration(
        job="alone",
        parties=("model-owner", "data-owner"),
        rank=1,
        adjust_rank=1,
        transcript_sha256=_TRANSCRIPT.digest,
        wait_s=0.2,
    )

    with (
        DealerClient(dealer.address, dealer.public_key) as client,
        pytest.raises(AgreementError, match="still waits for model-owner"),
    ):
        client.register(registration, _TRANSCRIPT)


def test_parties_with_different_transcripts_get_no_key(dealer: DealerProcess) -> None:
    """Both are told, the one that waits too."""
    other = Transcript.of([_RAND_BIT, _MUL])
    errors = []

    def register_one(rank: int, transcript: Transcript) -> None:
        registration = Registration(
            job="disagreeing",
            parties=("model-owner", "data-owner"),
            rank=rank,
            adjust_rank=1,
            transcript_sha256=transcript.digest,
            wait_s=10,
        )
        with DealerClient(dealer.address, dealer.public_key) as client:
            try:
                client.register(registration, transcript)
            except AgreementError as error:
                errors.append(str(error))

    threads = [threading.Thread(target=register_one, args=item) for item in ((0, _TRANSCRIPT), (1, other))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(errors) == 2
    assert all("different transcripts" in error for error in errors)


def test_another_dealers_grant_is_not_believed(dealer: DealerProcess) -> None:
    """Whoever answers at the dealer's address must hold the pinned identity key."""
    with DealerProcess(DealerConfig()) as impostor, pytest.raises(AgreementError, match="not signed"):
        register(impostor.address, dealer.public_key, "impostor", _TRANSCRIPT)


def test_identity_key_must_be_one() -> None:
    """A pinned key that is not base64 of 32 bytes stops at once, not at the first connection."""
    with pytest.raises(ConfigError, match="base64 of 32 bytes"):
        DealerClient("127.0.0.1:1", "not a key")
