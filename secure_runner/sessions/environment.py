"""The environment of a party's process: its threads, and what becomes of large buffers that it frees."""

from __future__ import annotations

import os

__all__ = ["party_environment"]

_LARGE_BUFFER_BYTES = 4 << 20
"""From this size on a party's buffers go back to the system when they are freed. glibc would keep those below
32 MB after the first runs: with large weights, as much again as their shares."""


def party_environment() -> dict[str, str]:
    """The runner's environment, without what concerns its own server only."""
    dropped = ("BENTOML_", "CIRCUS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    # Two parties a core is common on one machine: numerical libraries must not each take all cores.
    alone = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}
    # SPU's matrix products heed nothing but the limit. From some 50 rows up their second thread waits by
    # spinning: without a core of its own, a run takes four times as long. With cores to spare, set it higher.
    limits = {"OMP_THREAD_LIMIT": "1", "MALLOC_MMAP_THRESHOLD_": str(_LARGE_BUFFER_BYTES)}
    return limits | kept | alone
