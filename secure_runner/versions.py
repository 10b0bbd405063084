"""Versions that must be equal at all parties."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["AGREED_PACKAGES", "VERSION", "package_versions"]

VERSION = "0.1.0"
"""Of this package. Written here because a Bento holds the sources and not an installed package."""

AGREED_PACKAGES = ("secure-runner", "secretflow", "spu", "jax")
"""Parties with other versions of one of these may compute something else, or nothing."""


def package_versions() -> dict[str, str]:
    """What runs here, by package."""
    return {package: _version(package) for package in AGREED_PACKAGES}


def _version(package: str) -> str:
    if package == "secure-runner":
        return VERSION
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
