"""Programs and params in the BentoML model store, as two models: one public, one private."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bentoml
import numpy as np
from bentoml.exceptions import BentoMLException, NotFound

from secure_runner.errors import ProgramError
from secure_runner.programs.files import read_program, write_program
from secure_runner.programs.manifest import Manifest
from secure_runner.protocols import ProtocolName

if TYPE_CHECKING:
    from converters import ConvertedModel

__all__ = ["PARAMS_FILE", "PARAMS_SUFFIX", "SavedModel", "params_tag", "program_tag", "save_model"]

PARAMS_SUFFIX = "-params"
PARAMS_FILE = "params.npz"
_MODULE = "secure_runner"


@dataclass(frozen=True)
class SavedModel:
    """Where a model went: the public program, the private params, and what the program's digest is."""

    program: str
    params: str
    digest: str


def save_model(
    name: str,
    model: ConvertedModel,
    *,
    protocol: ProtocolName = "semi2k",
    batch_sizes: Sequence[int] | None = None,
    self_check: bool = True,
    samples: Sequence[Any] | None = None,
) -> SavedModel:
    """Compile a model and save it in the BentoML model store.

    Two entries of the same version: ``name`` holds the program (manifest and executables, no weights) and may
    be given to the other parties; ``name-params`` holds the weights and stays with the model owner.

    Args:
        name: BentoML model name (lower case).
        model: what ``from_onnx`` or ``from_flax`` returned.
        protocol: default protocol of deployments.
        batch_sizes: the ladder of batch sizes to compile; without, the protocol's usual one.
        self_check: whether to run the program once, here, and compare it with the model.
        samples: rows for that, one array for each of the model's inputs; made up where there are none.

    Returns:
        The tags of both entries and the program's digest, which a data owner can pin.

    Raises:
        LeakError: a trained value would become part of the program.
        SelfCheckError: the compiled program computes something else than the model.
        ProgramError: the model cannot be compiled, or BentoML does not take the name.
    """
    # The store is read by servers too, which never compile and start faster without JAX.
    from secure_runner.programs.build import build_program

    manifest, executables = build_program(
        name, model, protocol=protocol, batch_sizes=batch_sizes, self_check=self_check, samples=samples
    )
    labels = {"protocol": protocol, "program": manifest.digest[:32]}
    try:
        with bentoml.models.create(name, module=_MODULE, labels=labels) as program:
            write_program(Path(program.path), manifest, executables)
        with bentoml.models.create(f"{name}{PARAMS_SUFFIX}:{program.tag.version}", module=_MODULE) as params:
            np.savez(Path(params.path) / PARAMS_FILE, **model.params)
    except BentoMLException as error:
        raise ProgramError(f"BentoML could not save model {name!r}: {error}") from error
    return SavedModel(program=str(program.tag), params=str(params.tag), digest=manifest.digest)


def program_tag(tag: str) -> tuple[str, Manifest]:
    """Resolve a program's tag (``latest`` included) in the local store and read its manifest.

    Raises:
        ProgramError: there is no such program.
    """
    try:
        model = bentoml.models.get(tag)
    except NotFound:
        raise ProgramError(
            f"no program {tag!r} in the BentoML model store; `bentoml models list` shows what is there, "
            "`secure-runner import` makes one"
        ) from None
    return str(model.tag), read_program(Path(model.path))


def params_tag(tag: str) -> str:
    """Tag of the params that belong to a program's tag: same version, name with ``-params``."""
    name, _, wanted = tag.partition(":")
    return f"{name}{PARAMS_SUFFIX}:{wanted or 'latest'}"
