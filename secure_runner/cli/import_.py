"""``secure-runner import``: a model file becomes a program and its params in the BentoML model store."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click
import numpy as np
from rich.console import Console

from secure_runner.errors import ConfigError, ProgramError
from secure_runner.protocols import PROTOCOLS, ProtocolName

if TYPE_CHECKING:
    from converters import ConvertedModel

__all__ = ["import_"]

_ACCURACY_ROWS = 32

_EXAMPLES = """
\b
Examples:
  secure-runner import credit.onnx
  secure-runner import credit.onnx --name credit --protocol aby3 --batch-size 1 --batch-size 64
  secure-runner import encoder.onnx --shape ids=?,128 --calibration sample.npz
  secure-runner import mymodels.digits:make --name digits      # a Flax model, see below
"""


@click.command("import", epilog=_EXAMPLES)
@click.argument("source")
@click.option("--name", help="Name in the model store; by default the file's or the module's name.")
@click.option(
    "--protocol",
    type=click.Choice(list(PROTOCOLS)),
    default="semi2k",
    show_default=True,
    help="Default protocol of deployments.",
)
@click.option(
    "--batch-size", "batch_sizes", type=click.IntRange(1), multiple=True, help="A rung of the ladder; repeat."
)
@click.option(
    "--shape", "shapes", multiple=True, metavar="INPUT=DIMS", help="Shape of an input, ? the batch."
)
@click.option(
    "--calibration",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Sample inputs, .npy or .npz by input name: ranges are recorded and enforced.",
)
@click.option(
    "--self-check/--no-self-check",
    default=True,
    show_default=True,
    help="Run the compiled program once, here, and refuse it if it differs from the model.",
)
def import_(
    source: str,
    name: str | None,
    protocol: str,
    batch_sizes: Sequence[int],
    shapes: Sequence[str],
    calibration: Path | None,
    self_check: bool,
) -> None:
    """Convert SOURCE, compile it for SPU, and save it as two BentoML models.

    SOURCE is an ONNX file, or MODULE:FUNCTION of a Python function without arguments that returns a Flax
    module, its variables and example inputs, as `converters.from_flax` takes them.

    NAME holds the program, which may be given away; NAME-params holds the weights, which may not.
    """
    from secure_runner.programs.store import save_model

    console = Console()
    samples = None if calibration is None else _samples(calibration)
    with console.status(f"converting {source}"):
        model = convert_source(source, shapes, samples)
    chosen = name or _default_name(source)
    with console.status(f"compiling {chosen} for SPU"):
        saved = save_model(
            chosen,
            model,
            protocol=cast(ProtocolName, protocol),
            batch_sizes=tuple(batch_sizes) or None,
            self_check=self_check,
            samples=samples,
        )
    for warning in model.report.warnings:
        console.print(f"warning: {warning}", style="yellow")
    if samples is not None:
        with console.status(f"running the samples under {protocol}"):
            _print_accuracy(console, source, model, samples, cast(ProtocolName, protocol))
    console.print(f"program  {saved.program}   public: give it to the other parties")
    console.print(f"params   {saved.params}   private: stays here")
    console.print(f"digest   {saved.digest}")


def _print_accuracy(
    console: Console, source: str, model: ConvertedModel, samples: Sequence[Any], protocol: ProtocolName
) -> None:
    """How far the samples' answers under the protocol are from the model's own."""
    from secure_runner.programs.accuracy import accuracy

    rows = [np.asarray(sample)[:_ACCURACY_ROWS] for sample in samples]
    expected = _onnxruntime_answers(source, model, rows)
    for output in accuracy(model, *rows, expected=expected, protocol=protocol):
        console.print(f"{output}, against {'floating point' if expected is None else 'onnxruntime'}")


def _onnxruntime_answers(source: str, model: ConvertedModel, rows: Sequence[Any]) -> list[Any] | None:
    """What onnxruntime says, where it is installed and the model is its kind; None otherwise."""
    if Path(source).suffix != ".onnx" or find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    feed = {tensor.name: value for tensor, value in zip(model.inputs, rows, strict=True)}
    try:
        session = onnxruntime.InferenceSession(source)
        answers = session.run([tensor.name for tensor in model.outputs], feed)
    except Exception:
        # It does not know formats newer than itself, nor all operators: the model's own answers will do.
        return None
    return answers if all(isinstance(answer, np.ndarray) for answer in answers) else None


def convert_source(
    source: str, shapes: Sequence[str] = (), samples: list[Any] | None = None
) -> ConvertedModel:
    """Convert an ONNX file or MODULE:FUNCTION.

    Args:
        source: see `secure-runner import`.
        shapes: ``INPUT=DIMS`` texts.
        samples: calibration inputs.

    Raises:
        ConfigError: the source or a shape is malformed.
        ProgramError: the model cannot be converted.
    """
    from converters import ConversionError, from_flax, from_onnx

    try:
        if Path(source).suffix == ".onnx":
            return from_onnx(
                source, input_shapes=dict(_shape(shape) for shape in shapes) or None, calibration=samples
            )
        module, variables, *examples = _call(source)
        return from_flax(module, variables, *examples, calibration=samples)
    except ConversionError as error:
        raise ProgramError(str(error)) from error


def _call(source: str) -> Any:
    module, separator, function = source.partition(":")
    if not separator:
        raise ConfigError(f"expected a .onnx file or MODULE:FUNCTION, got {source!r}")
    sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(import_module(module), function)()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"cannot call {source}: {error}") from error


def _shape(text: str) -> tuple[str, tuple[int | None, ...]]:
    name, separator, dims = text.partition("=")
    try:
        if not separator:
            raise ValueError
        return name, tuple(None if dim.strip() == "?" else int(dim) for dim in dims.split(","))
    except ValueError:
        raise ConfigError(f"--shape: expected INPUT=DIMS, for example x=?,30; got {text!r}") from None


def _samples(path: Path) -> list[Any]:
    loaded = np.load(path, allow_pickle=False)
    return [loaded] if isinstance(loaded, np.ndarray) else [loaded[name] for name in loaded.files]


def _default_name(source: str) -> str:
    stem = Path(source).stem if source.endswith(".onnx") else source.partition(":")[0].rpartition(".")[2]
    return stem.lower().replace("_", "-")
