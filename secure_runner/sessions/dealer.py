"""The dealer of an embedded deployment, as a member of its sessions."""

from __future__ import annotations

import tempfile
from pathlib import Path

from secure_runner.config import Cluster
from secure_runner.dealer import DealerConfig, DealerProcess, Identity
from secure_runner.sessions.member import SessionOrder

__all__ = ["LocalDealer"]


class LocalDealer:
    """A dealer process on this machine, started before the first session and kept from session to session.

    Its identity key lives as long as this object: a dealer that is started again is the same to the parties.
    """

    def __init__(self, cluster: Cluster) -> None:
        assert cluster.dealer is not None
        self.party = cluster.dealer
        identity = Identity()
        self.public_key = identity.public_key
        """What the parties pin."""
        self._key_dir = tempfile.TemporaryDirectory(prefix="secure-runner-dealer-")
        key_file = Path(self._key_dir.name) / "identity.pem"
        key_file.touch(mode=0o600)
        key_file.write_bytes(identity.private_pem)
        address = cluster.dealing(listen=True)
        self._config = DealerConfig(
            host=address.host, port=address.port, identity_key_file=key_file, ignore_signals=True
        )
        self._stopped_timeout_s = cluster.timeouts.stopped_timeout_s
        self.process: DealerProcess | None = None

    async def warm(self) -> None:
        """Start the dealer, if it is not running."""
        if self.process is None or not self.process.is_running:
            # It takes a fraction of a second, and nothing can be served before.
            self.process = DealerProcess(self._config)

    async def start(self, order: SessionOrder) -> None:
        """Nothing to do: the parties register their jobs themselves."""

    def use(self, epoch: int) -> None:
        """Nothing to do: it knows its jobs, whichever sessions they are of."""

    async def ended(self, epoch: int) -> str:
        """Wait until the dealer's process is gone; one that is stopped is killed."""
        assert self.process is not None
        return await self.process.ended(self._stopped_timeout_s)

    async def end(self, epoch: int) -> None:
        """Nothing to do: a session's jobs end with its parties."""

    async def close(self) -> None:
        """End the dealer."""
        process, self.process = self.process, None
        if process is not None:
            process.close()
        self._key_dir.cleanup()
