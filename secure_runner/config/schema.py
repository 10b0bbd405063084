"""Prints the JSON schema of ``cluster.yaml``; ``docs/cluster-schema.json`` is what it prints."""

from __future__ import annotations

import json
import sys
from typing import Any

from secure_runner.config.cluster import Cluster

__all__ = ["cluster_schema"]


def cluster_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of the cluster file, for editors and validators."""
    schema = Cluster.model_json_schema()
    # Set by the runner itself; the reader refuses it in a file.
    del schema["properties"]["embedded"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "cluster.yaml"}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(cluster_schema(), indent=2, ensure_ascii=False) + "\n")
