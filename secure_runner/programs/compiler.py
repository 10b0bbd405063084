"""SPU's compiler, in a process of its own: a failed compile can corrupt the heap of the process it runs in.

``python -m secure_runner.programs.compiler`` reads one ladder and writes its executables.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from secure_runner.frames import Frame
from secure_runner.programs.child import answer, ask
from secure_runner.programs.lowering import Lowered

if TYPE_CHECKING:
    import spu

__all__ = ["compile_here", "compile_ladder"]


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
    return ask(__name__, "SPU's compiler", meta, [lowered.hlo for lowered in ladder])


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


def _compile(job: Frame) -> list[bytes]:
    inputs, outputs = job.meta["inputs"], job.meta["outputs"]
    return [
        compile_here(name, bytes(hlo), inputs, outputs).SerializeToString()
        for name, hlo in zip(job.meta["names"], job.parts, strict=True)
    ]


if __name__ == "__main__":
    answer(_compile)
