"""What the parties agree on (``cluster.yaml``) and what each keeps to itself (certificate, key, pins)."""

from secure_runner.config.cluster import SLOTS, Cluster
from secure_runner.config.embedded import embedded_cluster, embedded_settings
from secure_runner.config.party import PartySettings, timeouts_of
from secure_runner.config.read import ClusterFile, read_cluster
from secure_runner.config.settings import Address, LaneAddresses, Limits, Party, Retries, Timeouts, Tls

__all__ = [
    "SLOTS",
    "Address",
    "Cluster",
    "ClusterFile",
    "LaneAddresses",
    "Limits",
    "Party",
    "PartySettings",
    "Retries",
    "Timeouts",
    "Tls",
    "embedded_cluster",
    "embedded_settings",
    "read_cluster",
    "timeouts_of",
]
