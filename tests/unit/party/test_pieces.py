"""Params go to the parties in pieces of bounded size, and are whole again there."""

from zipfile import BadZipFile

import numpy as np
import pytest
import spu

from secure_runner.errors import ProgramError
from secure_runner.party.params_file import ParamsFile
from secure_runner.party.pieces import PIECE_BYTES, Assembly, Piece, in_groups, joined
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
def test_shares_of_pieces_are_a_share_of_the_whole(protocol, dtype, tmp_path):
    """Put together at each party, and reconstructed, they give the param; shared and as its owner's alone."""
    value = np.random.default_rng(0).integers(0, 300, (7, 5, 3)).astype(dtype)
    spec = TensorSpec(name="p", dtype=dtype, shape=value.shape)
    groups = in_groups([spec], 40 * value.itemsize)
    assert len(groups) == 3
    parties = len(PROTOCOLS[protocol].roles)
    io = spu.Io(parties, make_runtime_config(sharing_config_dict(protocol, NumericSpec())))
    np.savez(tmp_path / "params.npz", p=value)
    for owner in (-1, 0) if protocol == "cheetah" else (-1,):
        params = ParamsFile(tmp_path / "params.npz")
        shares = [
            io.make_shares(piece, spu.Visibility.VIS_SECRET, owner)
            for group in groups
            for piece in params.read(group).values()
        ]
        whole = [joined([part[rank] for part in shares], value.shape) for rank in range(parties)]
        found = np.asarray(io.reconstruct(whole))
        assert found.shape == value.shape
        np.testing.assert_array_equal(found.astype(dtype), value)


def test_params_are_whole_as_soon_as_their_last_piece_is_there():
    """A large one between two small ones, whose neighbours travel with its first and last pieces."""
    count = PIECE_BYTES // 4 + 1000
    values = {"p0": np.zeros(3), "p1": np.random.default_rng(0).normal(size=count), "p2": np.ones(2)}
    params, io = _params(3, count, 2), _io()
    parties, found = [Assembly(params), Assembly(params)], []
    for group in in_groups(params, PIECE_BYTES):
        pieces = {piece.key: values[piece.name][piece.start : piece.stop] for piece in group}
        shares = {key: io.make_shares(value, spu.Visibility.VIS_SECRET) for key, value in pieces.items()}
        found.append(
            [
                dict(party.add({key: by_rank[rank] for key, by_rank in reversed(shares.items())}))
                for rank, party in enumerate(parties)
            ]
        )
    assert [list(group[0]) for group in found] == [["p0"], [], ["p1", "p2"]]
    for group in found:
        for name in group[0]:
            whole = np.asarray(io.reconstruct([by_name[name] for by_name in group]))
            np.testing.assert_allclose(whole, values[name], atol=1e-5)


def test_shares_of_another_group_are_refused():
    """They would end up in another param."""
    params, io = _params(3), _io()
    (share, _) = io.make_shares(np.zeros(3), spu.Visibility.VIS_SECRET)
    assembly = Assembly(params)
    with pytest.raises(ValueError, match="other pieces"):
        list(assembly.add({"p1": share}))
    assembly = Assembly(params)
    assert [name for name, _ in assembly.add({"p0": share})] == ["p0"]
    with pytest.raises(ValueError, match="other pieces"):
        list(assembly.add({"p0": share}))


def _io() -> spu.Io:
    return spu.Io(2, make_runtime_config(sharing_config_dict("semi2k", NumericSpec())))


def _read(path, *params: TensorSpec) -> dict[str, np.ndarray]:
    file = ParamsFile(path)
    return {key: value for group in in_groups(params, 240) for key, value in file.read(group).items()}


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_params_file_is_read_piece_by_piece(tmp_path, order):
    """Whatever order its arrays lie in, and however many pieces each has."""
    draw = np.random.default_rng(0)
    values = {"a": draw.normal(size=(50, 7)).astype(np.float32, order=order), "b": np.float32(3)}
    values |= {"c": draw.normal(size=(3, 4)).astype(np.float32, order=order), "d": np.zeros((0, 3), np.int8)}
    np.savez(tmp_path / "params.npz", **values)
    specs = [TensorSpec(name=n, dtype=v.dtype.name, shape=v.shape) for n, v in sorted(values.items())]
    found = _read(tmp_path / "params.npz", *specs)
    parts = [found.pop(key) for key in list(found) if key.startswith("a[")]
    assert len(parts) == 6
    np.testing.assert_array_equal(np.concatenate(parts).reshape(50, 7), values.pop("a"))
    assert {name: value.shape for name, value in found.items()} == {"b": (), "c": (3, 4), "d": (0, 3)}
    for name, value in values.items():
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("stored", [90, 150])
def test_a_params_file_of_another_program_is_told(tmp_path, stored):
    """With fewer elements and with more."""
    np.savez(tmp_path / "params.npz", p0=np.zeros(stored, np.float32))
    with pytest.raises(ProgramError, match=f"p0 has {stored} elements .* save the model again"):
        _read(tmp_path / "params.npz", *_params(100))


def test_a_damaged_params_file_is_told(tmp_path):
    """One bit of one weight."""
    path = tmp_path / "params.npz"
    np.savez(path, p0=np.zeros(100, np.float32))
    content = bytearray(path.read_bytes())
    content[400] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadZipFile):
        _read(path, *_params(100))
