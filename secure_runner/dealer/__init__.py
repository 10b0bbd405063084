"""The dealer of correlated randomness that SPU's SEMI2K protocol needs: see ``docs/dealer.md``.

A party needs :class:`DealerClient`, :class:`JobWatch` and :func:`beaver_config`; whoever runs a dealer needs
:class:`DealerProcess` with a :class:`DealerConfig`; a compiler records a :class:`Transcript` by
:func:`recording_dealer`.
"""

from secure_runner.dealer.client import DealerClient, JobWatch
from secure_runner.dealer.config import DealerConfig, DealerLimits, TlsFiles
from secure_runner.dealer.identity import Grant, Identity
from secure_runner.dealer.process import DealerProcess
from secure_runner.dealer.record import Recorder, recording_dealer
from secure_runner.dealer.registration import Registration
from secure_runner.dealer.relay import Relay
from secure_runner.dealer.runtime import beaver_config
from secure_runner.dealer.transcript import Transcript

__all__ = [
    "DealerClient",
    "DealerConfig",
    "DealerLimits",
    "DealerProcess",
    "Grant",
    "Identity",
    "JobWatch",
    "Recorder",
    "Registration",
    "Relay",
    "TlsFiles",
    "Transcript",
    "beaver_config",
    "recording_dealer",
]
