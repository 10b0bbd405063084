"""SPU's compiler, in a process of its own: a failed compile can corrupt the heap of the process it runs in.

``python -m secure_runner.programs.compiler`` reads one ladder from standard input and writes the executables
to standard output, both as one frame.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from secure_runner.errors import ProgramError
from secure_runner.frames import Frame, FrameError, Kind, decode, encode
from secure_runner.programs.lowering import Lowered

if TYPE_CHECKING:
    import spu

__all__ = ["compile_here", "compile_ladder"]

_TIMEOUT_S = 3600.0


def compile_ladder(ladder: Sequence[Lowered], output_names: Sequence[str]) -> list[bytes]:
    """Compile each batch size to an SPU executable, serialised.

    All inputs, params included, are secret to the compiler; it learns no value.

    Raises:
        ProgramError: SPU's compiler refused a program or died of it.
    """
    meta = {
        "inputs": list(ladder[0].input_names),
        "outputs": list(output_names),
        "names": [f"batch_{lowered.batch_size}" for lowered in ladder],
    }
    job = b"".join(encode(Frame(Kind.START, 0, meta, [lowered.hlo for lowered in ladder])))
    command = [sys.executable, "-m", __name__]
    try:
        done = subprocess.run(command, input=job, capture_output=True, timeout=_TIMEOUT_S, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise ProgramError(
            f"SPU's compiler did not finish in {_TIMEOUT_S:.0f} s; the model is too large"
        ) from None
    try:
        executables = decode(done.stdout).parts
    except FrameError:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise ProgramError(
            f"SPU's compiler ended with exit code {done.returncode}: "
            f"{said[-1] if said else 'it said nothing'}"
        ) from None
    return [bytes(executable) for executable in executables]


def compile_here(
    name: str, hlo: bytes, input_names: Sequence[str], output_names: Sequence[str]
) -> spu.Executable:
    """Compile one lowered function in this very process, which may die of it."""
    import spu

    options = spu.CompilerOptions()
    # One reciprocal instead of many divisions where a softmax divides by its sum.
    options.enable_optimize_denominator_with_broadcast = True
    secret = [spu.Visibility.VIS_SECRET] * len(input_names)
    source = spu.CompilationSource(spu.SourceIRType.XLA, bytes(hlo), secret)
    code = spu.compile(source, options)
    return spu.Executable(
        name=name, input_names=list(input_names), output_names=list(output_names), code=code
    )


def _main() -> None:
    job = decode(sys.stdin.buffer.read())
    inputs, outputs = job.meta["inputs"], job.meta["outputs"]
    executables = [
        compile_here(name, bytes(hlo), inputs, outputs).SerializeToString()
        for name, hlo in zip(job.meta["names"], job.parts, strict=True)
    ]
    sys.stdout.buffer.write(b"".join(encode(Frame(Kind.RESULT, parts=executables))))


if __name__ == "__main__":
    _main()
