"""The environment of a party's process: its threads, and what becomes of large buffers that it frees."""

from __future__ import annotations

import os

__all__ = ["PARTY_DEFAULTS", "party_environment"]

PARTY_DEFAULTS = {
    # SPU's matrix products heed nothing but the limit. From some 50 rows up their second thread waits by
    # spinning: without a core of its own, a run takes four times as long. With cores to spare, set it higher.
    "OMP_THREAD_LIMIT": "1",
    # From this size on, buffers go back to the system when they are freed. glibc would keep those below 32 MB
    # after the first runs: with large weights, as much again as their shares.
    "MALLOC_MMAP_THRESHOLD_": str(4 << 20),
    # Whoever sets that size gets a heap that is cut back as soon as 128 KB at its end are free: page faults
    # in each run, an eighth of cheetah's. This much may stay, in the heap of each thread.
    "MALLOC_TRIM_THRESHOLD_": str(4 << 20),
}
"""What the runner sets for its parties, unless its own environment says otherwise."""


def party_environment() -> dict[str, str]:
    """The runner's environment, without what concerns its own server only."""
    dropped = ("BENTOML_", "CIRCUS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    # Two parties a core is common on one machine: numerical libraries must not each take all cores.
    alone = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}
    return PARTY_DEFAULTS | kept | alone
