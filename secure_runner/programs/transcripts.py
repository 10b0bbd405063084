"""What a dealer will be asked for when an executable runs: recorded once, when the program is built.

``python -m secure_runner.programs.transcripts`` does it, in a process of its own like SPU's compiler.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from secure_runner.frames import Frame
from secure_runner.programs.child import answer, ask
from secure_runner.programs.manifest import NumericSpec, TensorSpec
from secure_runner.programs.names import input_name, param_name

if TYPE_CHECKING:
    from secure_runner.dealer import Recorder

__all__ = ["record_transcripts"]

_PARTIES = 2


def record_transcripts(
    executables: Mapping[int, bytes],
    params: Sequence[TensorSpec],
    inputs: Sequence[TensorSpec],
    numeric: NumericSpec,
) -> dict[int, bytes]:
    """Run each executable once, on zeros, against a dealer that writes down what it is asked.

    Operations and sizes do not depend on values, so zeros give the transcript of every run.

    Args:
        executables: batch size → serialised SPU executable.
        params: of the program.
        inputs: private inputs of the program.
        numeric: its ring.

    Returns:
        Batch size → transcript in its canonical form.

    Raises:
        ProgramError: an executable does not run.
    """
    shapes = {
        size: [
            *((param_name(t.name), t.dtype, t.shape) for t in params),
            *((input_name(t.name), t.dtype, t.with_batch(size)) for t in inputs),
        ]
        for size in executables
    }
    meta = {"numeric": numeric.model_dump(), "shapes": list(shapes.values())}
    transcripts = ask(__name__, "a run of the program under semi2k", meta, list(executables.values()))
    return dict(zip(executables, transcripts, strict=True))


def _record(job: Frame) -> list[bytes]:
    from secure_runner.dealer import recording_dealer

    numeric = NumericSpec.model_validate(job.meta["numeric"])
    transcripts = []
    with recording_dealer() as recorder:
        for index, (code, shapes) in enumerate(zip(job.parts, job.meta["shapes"], strict=True)):
            _run_on_zeros(bytes(code), shapes, numeric, recorder, f"record-{index}")
            transcripts.append(recorder.take().canonical_json)
    return transcripts


def _run_on_zeros(
    code: bytes, shapes: Sequence[Any], numeric: NumericSpec, recorder: Recorder, link_id: str
) -> None:
    import spu

    from secure_runner.programs.in_process import PartiesHere
    from secure_runner.spu_config import runtime_config_dict

    executable = spu.Executable()
    executable.ParseFromString(code)
    # A network has many params of one shape, and all are zeros: in memory they are one.
    alike = {name: (dtype, tuple(shape)) for name, dtype, shape in shapes}
    executable.input_names = [_zeros_name(*alike[name]) for name in executable.input_names]
    config = runtime_config_dict("semi2k", numeric, beaver=recorder.beaver_config())
    parties = PartiesHere(_PARTIES, config, link_id)
    for dtype, shape in set(alike.values()):
        parties.share(_zeros_name(dtype, shape), np.zeros(shape, dtype))
    parties.run(executable)


def _zeros_name(dtype: str, shape: Sequence[int]) -> str:
    return f"{dtype}{list(shape)}"


if __name__ == "__main__":
    answer(_record)
