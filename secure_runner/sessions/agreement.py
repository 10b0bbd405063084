"""What all parties must agree on before the first request, and the comparison that names each difference.

SPU itself compares next to nothing: parties with other fraction bits compute garbage without an error.
"""

from __future__ import annotations

from secure_runner.config import PartySettings
from secure_runner.errors import AgreementError
from secure_runner.programs.manifest import Manifest
from secure_runner.sessions.messages import Hello
from secure_runner.versions import package_versions

__all__ = ["compare_clocks", "compare_hello", "differences", "make_hello"]


def make_hello(settings: PartySettings, manifest: Manifest | None) -> Hello:
    """What this party has: its cluster, program (None at a dealer) and versions."""
    configuration: dict[str, str | int | bool] = {"protocol": settings.cluster.protocol}
    if manifest is not None:
        configuration |= {"program_protocol": manifest.protocol, **manifest.numeric.model_dump()}
    return Hello(
        party=settings.party,
        cluster_name=settings.cluster.name,
        cluster_digest=settings.cluster.digest,
        program_name=None if manifest is None else manifest.name,
        program_digest=None if manifest is None else manifest.digest,
        protocol_configuration=configuration,
        versions=package_versions(),
    )


def compare_hello(
    mine: Hello, theirs: Hello, *, both_compute: bool = True, pinned_program_digest: str | None = None
) -> None:
    """Compare what two parties have. Arguments as :func:`differences`.

    Raises:
        AgreementError: they differ; one line for each difference, with both values and both parties.
    """
    found = differences(mine, theirs, both_compute=both_compute, pinned_program_digest=pinned_program_digest)
    if found:
        raise AgreementError(
            f"{mine.party} and {theirs.party} do not agree:\n" + "\n".join(f"  - {line}" for line in found)
        )


def differences(
    mine: Hello, theirs: Hello, *, both_compute: bool = True, pinned_program_digest: str | None = None
) -> list[str]:
    """What two parties differ in: a sentence each, with both values, both parties and what to do.

    Args:
        mine: this party's.
        theirs: the peer's, whose name the connection has already verified.
        both_compute: whether both must have the program; a dealer has none.
        pinned_program_digest: the one program that this party has audited, if it pins one.
    """
    found = []

    def compare(what: str, own: object, other: object, remedy: str) -> None:
        if own != other:
            found.append(
                f"{what}: {mine.party} has {_shown(own)}, {theirs.party} has {_shown(other)}; {remedy}"
            )

    compare("cluster name", mine.cluster_name, theirs.cluster_name, "use the same cluster file")
    compare("cluster digest", mine.cluster_digest, theirs.cluster_digest, "use the same cluster file")
    own_settings, other_settings = mine.protocol_configuration, theirs.protocol_configuration
    names = own_settings.keys() | other_settings.keys()
    if both_compute:
        compare("program name", mine.program_name, theirs.program_name, "serve the same Bento build")
        compare("program digest", mine.program_digest, theirs.program_digest, "serve the same Bento build")
        if pinned_program_digest not in (None, theirs.program_digest):
            found.append(
                f"pinned program digest: {mine.party} has audited {pinned_program_digest}, {theirs.party} "
                f"has {theirs.program_digest}; audit the new program and pin it, or serve the audited one"
            )
    else:
        names = own_settings.keys() & other_settings.keys()
    for name in sorted(names):
        own, other = own_settings.get(name), other_settings.get(name)
        compare(f"protocol configuration, {name}", own, other, "compile the program once, for all parties")
    for name in sorted(mine.versions.keys() | theirs.versions.keys()):
        own_version, other_version = mine.versions.get(name), theirs.versions.get(name)
        compare(f"version of {name}", own_version, other_version, "install the same version at both")
    return found


def compare_clocks(mine: str, theirs: str, difference_s: float, limit_s: float) -> None:
    """Refuse clocks that lie too far apart; ``difference_s`` is how far the peer's is ahead.

    Raises:
        AgreementError: they differ by more than ``limit_s``; names both parties and the difference.
    """
    if abs(difference_s) > limit_s:
        relation = "ahead of" if difference_s > 0 else "behind"
        raise AgreementError(
            f"{mine} and {theirs} do not agree:\n  - clock: that of {theirs} is {abs(difference_s):.1f} s "
            f"{relation} that of {mine}, and {limit_s:g} s are allowed; set both by a time server"
        )


def _shown(value: object) -> str:
    return "nothing" if value is None else str(value)
