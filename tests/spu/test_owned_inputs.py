"""Features and params that stay with their owner: what the other parties receive of them says nothing."""

from __future__ import annotations

import numpy as np
import pytest

from secure_runner.programs.manifest import NumericSpec
from secure_runner.protocols import PROTOCOLS
from secure_runner.spu_config import make_runtime_config, sharing_config_dict

_OWNED = [name for name, protocol in PROTOCOLS.items() if protocol.inputs_stay_with_owner]


@pytest.mark.parametrize("owner", [0, 1])
@pytest.mark.parametrize("name", _OWNED)
def test_the_other_parties_receive_the_same_bytes_whatever_the_values_are(name, owner):
    """Not even a random share: the value has not left its owner. Together the shares still are the value."""
    import spu

    parties = len(PROTOCOLS[name].roles)
    io = spu.Io(parties, make_runtime_config(sharing_config_dict(name, NumericSpec())))
    values = [np.full((3, 2), value, np.float32) for value in (0.0, 1.5, -321.25)]
    shares = [io.make_shares(value, spu.Visibility.VIS_SECRET, owner) for value in values]
    for rank in range(parties):
        received = {b"".join(share[rank].share_chunks) for share in shares}
        assert len(received) == (len(values) if rank == owner else 1)
    for value, share in zip(values, shares, strict=True):
        np.testing.assert_allclose(np.asarray(io.reconstruct(share)), value, atol=1e-4)


@pytest.mark.parametrize("name", sorted(set(PROTOCOLS) - set(_OWNED)))
def test_elsewhere_every_party_receives_random_shares(name):
    """The same value twice gives each party other bytes."""
    import spu

    parties = len(PROTOCOLS[name].roles)
    io = spu.Io(parties, make_runtime_config(sharing_config_dict(name, NumericSpec())))
    value = np.full((3, 2), 1.5, np.float32)
    first, second = (io.make_shares(value, spu.Visibility.VIS_SECRET, -1) for _ in range(2))
    for rank in range(parties):
        assert first[rank].share_chunks != second[rank].share_chunks
