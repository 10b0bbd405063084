from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.spu_parties import SpuParties
from secure_runner.dealer import DealerConfig, DealerProcess


@pytest.fixture(scope="module")
def dealer() -> Iterator[DealerProcess]:
    with DealerProcess(DealerConfig()) as process:
        yield process


@pytest.fixture(scope="module", params=[2, 3], ids=lambda count: f"{count}_parties")
def parties(request: pytest.FixtureRequest) -> Iterator[tuple[int, SpuParties]]:
    with SpuParties(request.param) as linked:
        yield request.param, linked


@pytest.fixture(scope="module")
def five_parties() -> Iterator[SpuParties]:
    with SpuParties(5) as linked:
        yield linked


@pytest.fixture
def two_parties() -> Iterator[SpuParties]:
    with SpuParties(2, recv_timeout_ms=6_000) as linked:
        yield linked
