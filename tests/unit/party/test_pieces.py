"""Params go to the parties in pieces of bounded size, and are whole again there."""

import numpy as np
import pytest
import spu

from secure_runner.party.pieces import Piece, in_groups, joined, read_pieces
from secure_runner.programs.manifest import NumericSpec, TensorSpec
from secure_runner.protocols import PROTOCOLS
from secure_runner.spu_config import make_runtime_config, sharing_config_dict


def _params(*sizes: int) -> list[TensorSpec]:
    return [TensorSpec(name=f"p{i}", dtype="float32", shape=(size,)) for i, size in enumerate(sizes)]


def _keys(groups: list[list[Piece]]) -> list[list[str]]:
    return [[piece.key for piece in group] for group in groups]


def test_small_params_go_at_once():
    """A session of a small model starts with one exchange."""
    assert _keys(in_groups(_params(10, 20, 30), 240)) == [["p0", "p1", "p2"]]


def test_large_params_go_in_pieces():
    """No group is larger than the limit."""
    groups = in_groups(_params(10, 130, 1), 240)
    assert _keys(groups) == [["p0"], ["p1[0:60]"], ["p1[60:120]"], ["p1[120:130]", "p2"]]


def test_a_model_without_params_has_one_empty_group():
    """Its parties still have to say what they serve."""
    assert in_groups([], 240) == [[]]


@pytest.mark.parametrize("dtype", ["float32", "int32", "bool"])
@pytest.mark.parametrize("protocol", list(PROTOCOLS))
def test_shares_of_pieces_are_a_share_of_the_whole(protocol, dtype):
    """Put together at each party, and reconstructed, they give the param; shared and as its owner's alone."""
    value = np.random.default_rng(0).integers(0, 300, (7, 5, 3)).astype(dtype)
    spec = TensorSpec(name="p", dtype=dtype, shape=value.shape)
    groups = in_groups([spec], 40 * value.itemsize)
    assert len(groups) == 3
    parties = len(PROTOCOLS[protocol].roles)
    io = spu.Io(parties, make_runtime_config(sharing_config_dict(protocol, NumericSpec())))
    for owner in (-1, 0) if protocol == "cheetah" else (-1,):
        shares = [
            io.make_shares(piece, spu.Visibility.VIS_SECRET, owner)
            for group in groups
            for piece in read_pieces({"p": value}, group).values()
        ]
        whole = [joined([part[rank] for part in shares], value.shape) for rank in range(parties)]
        found = np.asarray(io.reconstruct(whole))
        assert found.shape == value.shape
        np.testing.assert_array_equal(found.astype(dtype), value)
