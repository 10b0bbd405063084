"""The request loops of a session: one for the data owner's party, one for every other.

Per batch, the data owner's party splits the private inputs into shares and sends each party its own; all run
the executable; every other party sends its output shares back; the data owner alone puts them together.
Shares of the next batch travel, and the last one is put together, while the present one runs. Nobody waits on
the link meanwhile: all channels of a pair of parties wake whoever waits, with each message of a run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from secure_runner.heap import settle_heap
from secure_runner.party.data_owner_loop import DataOwnerLoop
from secure_runner.party.peer_loop import PeerLoop

if TYPE_CHECKING:
    from secure_runner.party.resident import ResidentRuntime

__all__ = ["serve"]


def serve(runtime: ResidentRuntime) -> None:
    """Serve the session at this party. Ends the process, never returns."""
    settle_heap()
    is_data_owner = runtime.spec.settings.role == "data_owner"
    loop = DataOwnerLoop(runtime) if is_data_owner else PeerLoop(runtime)
    loop.run()
