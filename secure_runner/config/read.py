"""Reads ``cluster.yaml``."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from secure_runner.config.cluster import Cluster
from secure_runner.config.validation import config_error
from secure_runner.errors import ConfigError

__all__ = ["ClusterFile", "read_cluster"]

_LARGEST_FILE_BYTES = 1024 * 1024


@dataclass(frozen=True)
class ClusterFile:
    """A cluster and the file it came from."""

    path: Path
    cluster: Cluster
    file_digest: str
    """SHA-256 (hex) of the file's bytes. Parties compare ``cluster.digest``, which comments do not change."""

    @property
    def directory(self) -> Path:
        """What relative file names in the cluster are relative to."""
        return self.path.resolve().parent


class _UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a key given twice, of which YAML silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def read_cluster(path: str | Path) -> ClusterFile:
    """Read and validate a cluster file.

    Raises:
        ConfigError: the file is missing, not YAML, or not a valid cluster; names every field at fault.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cluster file {path} cannot be read: {error.strerror}") from error
    if len(content) > _LARGEST_FILE_BYTES:
        raise ConfigError(
            f"cluster file {path} has {len(content)} bytes; at most {_LARGEST_FILE_BYTES} make sense"
        )
    try:
        settings = yaml.load(content, Loader=_UniqueKeyLoader)  # noqa: S506 (derives from SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, RecursionError) as error:
        raise ConfigError(f"cluster file {path} is not valid YAML: {error}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"cluster file {path} must hold settings by name, got {type(settings).__name__}")
    if "embedded" in settings:
        raise ConfigError(
            f"cluster file {path}: embedded is set by the runner itself; to run all parties on one machine, "
            f"leave SECURE_RUNNER_CLUSTER unset"
        )
    try:
        cluster = Cluster.model_validate(settings)
    except ValidationError as error:
        raise config_error(f"cluster file {path}", error) from error
    return ClusterFile(path, cluster, hashlib.sha256(content).hexdigest())
