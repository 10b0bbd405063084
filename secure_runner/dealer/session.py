"""A session: the seeds of one SPU runtime's parties, pinned to the transcript of the one executable it runs.

The adjusting party alone talks to the dealer. Unpinned, it could ask for RandBit over blocks that another
party later uses as a mask, and read that mask from the answer. So a session serves nothing but its
transcript, run after run: every request's operation, sizes and blocks are known before it comes, and each
block is used once.

One executable a session, and not several to choose from: the parties would have to tell the dealer which one
each run is, or else the adjusting party could ask along one executable's transcript while the other party
draws its masks along another's.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from secure_runner.dealer.answers import Answers, Place, Prepared, Runs
from secure_runner.dealer.corrections import Masks, correct
from secure_runner.dealer.prg import SEED_BYTES, Prg
from secure_runner.dealer.requests import RequestError
from secure_runner.dealer.responses import correction_frames
from secure_runner.dealer.transcript import Transcript

__all__ = ["Session"]

# Small steps are computed together, for one call of the generators instead of one for each mask; but not so
# many that a request that comes meanwhile would wait.
_BATCH_MASK_BYTES = 64 << 10
_BATCH_STEPS = 8
# A relay takes all that waits: several runs at once spare it three questions of four.
_RUNS_AHEAD = 4
_HEAVY_MASK_BYTES = 1 << 20
_HEAVY_MULTIPLICATIONS = 1 << 20


class Session(Answers):
    """Answers of one session, computed ahead because the next request is always known.

    They go out one by one, as SPU's client asks for them, or many at a time, to the adjusting party's relay.
    :meth:`prepare` may run in another thread, one call at a time, and what it returns goes to :meth:`add`;
    everything else belongs to one thread.

    Args:
        transcript: what a run asks for; at least one step.
        seeds: the parties' seeds, 16 bytes each, in rank order.
        ciphertexts: the same under the dealer's key, as requests bear them.
        lookahead_bytes: how many bytes of answers may wait; at least one step always may.
    """

    def __init__(
        self,
        transcript: Transcript,
        seeds: Sequence[bytes],
        ciphertexts: Sequence[str],
        *,
        lookahead_bytes: int,
    ) -> None:
        super().__init__(transcript, ciphertexts)
        self._parties = [Prg(seed) for seed in seeds]
        self._secret = Prg(secrets.token_bytes(SEED_BYTES))
        self._lookahead_bytes = lookahead_bytes
        self._runs = Runs(transcript)
        self._handed = (0, b"")

    def take(self, first: int) -> bytes | None:
        """All answers that wait, as frames one after another, or None where none does.

        The last ones that were taken may be taken again, as after a broken connection.

        Args:
            first: how many corrections this session has handed out before.

        Raises:
            RequestError: it is another number. Nothing was revealed.
        """
        handed_first, handed = self._handed
        if handed and first == handed_first:
            return handed
        if first != self.served:
            raise RequestError(f"expected to be asked for corrections from number {self.served} on")
        if not self.pending:
            return None
        frames = b"".join([self.pop().frames for _ in range(len(self.pending))])
        self._handed = (first, frames)
        return frames

    @property
    def wants_preparation(self) -> bool:
        """Whether there is room to compute ahead: less than a few runs, and than the bytes allowed, waits."""
        return (
            len(self.pending) < _RUNS_AHEAD * self.run_length and self.pending_bytes < self._lookahead_bytes
        )

    @property
    def next_is_heavy(self) -> bool:
        """Whether the next :meth:`prepare` takes long enough to deserve a thread."""
        step = self._runs.next.step
        return (
            sum(step.input_bytes) * len(self._parties) > _HEAVY_MASK_BYTES
            or step.multiplications > _HEAVY_MULTIPLICATIONS
        )

    def prepare(self) -> list[Prepared]:
        """Compute the answers of the next step, or of the next few small ones, in order."""
        batch = self._next_batch()
        first, last = batch[0].counter, batch[-1]
        masks = Masks(self._parties, first, last.counter + last.step.mask_blocks - first)
        prepared = []
        for place in batch:
            corrections = correct(place.step, place.counter, masks, self._parties, self._secret)
            prepared.append(Prepared.of(place, self.ciphertexts, correction_frames(corrections)))
        return prepared

    def _next_batch(self) -> list[Place]:
        """What comes next, within one run; moves on."""
        batch = [self._runs.pass_one()]
        mask_bytes = sum(batch[0].step.input_bytes)
        while self._runs.next.index != 0 and len(batch) < _BATCH_STEPS:
            mask_bytes += sum(self._runs.next.step.input_bytes)
            if mask_bytes > _BATCH_MASK_BYTES:
                break
            batch.append(self._runs.pass_one())
        return batch
