"""The private part of the configuration: which party a process is, and where its certificate and key lie."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from secure_runner.config.cluster import Cluster
from secure_runner.config.read import read_cluster
from secure_runner.config.settings import Party, Timeouts
from secure_runner.config.validation import config_error
from secure_runner.errors import ConfigError
from secure_runner.protocols import Role

__all__ = ["VARIABLES", "PartySettings", "timeouts_of"]

VARIABLES: dict[str, str] = {
    "party": "SECURE_RUNNER_PARTY",
    "tls_certificate_file": "SECURE_RUNNER_TLS_CERT",
    "tls_key_file": "SECURE_RUNNER_TLS_KEY",
    "tls_ca_file": "SECURE_RUNNER_TLS_CA",
    "program_digest": "SECURE_RUNNER_PROGRAM_DIGEST",
    "dealer_key": "SECURE_RUNNER_DEALER_KEY",
}
"""Setting to environment variable. ``SECURE_RUNNER_CLUSTER`` names the cluster file."""

_CLUSTER_VARIABLE = "SECURE_RUNNER_CLUSTER"


class PartySettings(BaseModel):
    """One party's view of its cluster. Holds paths of keys, never keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    cluster: Cluster
    """What all parties agree on."""
    cluster_directory: Path = Path(".")
    """Directory of the cluster file: relative trust files of the cluster are found from here."""
    party: str
    """Name of this party in the cluster."""
    tls_certificate_file: Path | None = None
    """PEM file with this party's certificate (and intermediate certificates, if any)."""
    tls_key_file: Path | None = Field(default=None, repr=False)
    """PEM file with this party's private key."""
    tls_ca_file: Path | None = None
    """Replaces the cluster's ``tls.ca_file`` where this party keeps the authority's certificate elsewhere."""
    program_digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Digest of the one program this party has audited; any other is refused."""
    dealer_key: str | None = None
    """The dealer's public identity key (base64), from the dealer's operator: never from the other party."""

    @model_validator(mode="after")
    def _is_consistent(self) -> PartySettings:
        if self.party not in self.cluster.parties:
            raise ValueError(
                f"party: {self.party!r} is not in cluster {self.cluster.name}; "
                f"expected one of {', '.join(self.cluster.parties)}"
            )
        files = {"tls_certificate_file": self.tls_certificate_file, "tls_key_file": self.tls_key_file}
        missing = [f"{name} ({VARIABLES[name]})" for name, path in files.items() if path is None]
        if self.cluster.tls is not None and missing:
            raise ValueError(
                f"{' and '.join(missing)}: missing, although cluster {self.cluster.name} uses TLS"
            )
        if self.cluster.dealer not in (None, self.party) and self.dealer_key is None:
            raise ValueError(
                f"dealer_key ({VARIABLES['dealer_key']}): missing, although cluster {self.cluster.name} has "
                f"a dealer; ask the operator of {self.cluster.dealer} for its public identity key"
            )
        return self

    @property
    def role(self) -> Role:
        """This party's role."""
        return self.own.role

    @property
    def own(self) -> Party:
        """This party's entry in the cluster."""
        return self.cluster.parties[self.party]

    @property
    def peers(self) -> tuple[str, ...]:
        """Names of all other parties."""
        return tuple(name for name in self.cluster.parties if name != self.party)

    def trust_file(self, peer: str) -> Path:
        """PEM file that says which certificates of ``peer`` to believe.

        Raises:
            ConfigError: the cluster uses no TLS.
        """
        if self.cluster.tls is None:
            raise ConfigError(
                f"cluster {self.cluster.name} uses no TLS, so there is no trust file for {peer}"
            )
        pinned = self.cluster.parties[peer].certificate_file
        if pinned is not None:
            return self.cluster_directory / pinned
        if self.tls_ca_file is not None:
            return self.tls_ca_file
        assert self.cluster.tls.ca_file is not None
        return self.cluster_directory / self.cluster.tls.ca_file

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> PartySettings | None:
        """Settings from environment variables, or None where no cluster is configured (embedded).

        Raises:
            ConfigError: the cluster file or a variable is wrong; names the variable.
        """
        cluster_path = environment.get(_CLUSTER_VARIABLE, "")
        given = {field: environment[name] for field, name in VARIABLES.items() if environment.get(name)}
        if not cluster_path:
            if "party" in given:
                raise ConfigError(
                    f"{VARIABLES['party']} is set but {_CLUSTER_VARIABLE} is not; set both for a cluster, "
                    f"or neither to run all parties on this machine"
                )
            return None
        file = read_cluster(cluster_path)
        if "party" not in given:
            raise ConfigError(
                f"{VARIABLES['party']} is not set; expected one of {', '.join(file.cluster.parties)} "
                f"of cluster {file.cluster.name}"
            )
        try:
            return cls.model_validate({"cluster": file.cluster, "cluster_directory": file.directory, **given})
        except ValidationError as error:
            raise config_error("the environment", error) from error


def timeouts_of(settings: PartySettings | None) -> Timeouts:
    """Those of a party's cluster, or where it has none (embedded) the defaults."""
    return Timeouts() if settings is None else settings.cluster.timeouts
