"""A file of rows becomes a file of predictions, in order, whatever happens on the way."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import uvicorn
from click.testing import CliRunner

from secure_runner.cli.predict import predict
from secure_runner.errors import UnavailableError
from secure_runner.http.api import PredictionApi
from secure_runner.http.app import create_app
from secure_runner.http.settings import HttpSettings
from secure_runner.programs.manifest import ExecutableSpec, Manifest, NumericSpec, TensorSpec

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(100, 3))
Run = Callable[..., Any]


class Predictor:
    """Row sums and a label; can fail at a given call, or answer late."""

    def __init__(self) -> None:
        x = TensorSpec(name="x", dtype="float32", shape=(None, 3))
        outputs = (
            TensorSpec(name="label", dtype="str", shape=(None,)),
            TensorSpec(name="scores", dtype="float32", shape=(None, 2)),
        )
        self.manifest = Manifest(
            name="sum",
            protocol="aby3",
            numeric=NumericSpec(),
            inputs=(x,),
            outputs=outputs,
            private_inputs=(x,),
            private_outputs=outputs,
            params=(),
            executables=(ExecutableSpec(batch_size=8, file="b8", sha256="0" * 64),),
            versions={},
        )
        self.requests: list[str] = []
        self.clients: set[str | None] = set()
        self.failing: Callable[[int], bool] = lambda _: False

    async def predict(self, inputs: Any, *, request_id: str, client: str | None, **_: Any) -> dict[str, Any]:
        self.requests.append(request_id)
        self.clients.add(client)
        if self.failing(len(self.requests)):
            raise UnavailableError("the session ended", retry_after_s=0.01)
        # The later the chunk, the sooner its answer: order must not come from arrival.
        await asyncio.sleep(0.02 / len(self.requests))
        sums = inputs["x"].sum(axis=1)
        return {"label": np.where(sums > 0, "high", "low"), "scores": np.stack([sums, -sums], axis=1)}

    async def ready(self) -> tuple[bool, str]:
        return True, ""


@pytest.fixture
def predictor() -> Predictor:
    return Predictor()


@pytest.fixture
def url(predictor: Predictor) -> Iterator[str]:
    app = create_app(PredictionApi(predictor, HttpSettings(authentication="none")))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            thread.join(10)


@pytest.fixture
def run(url: str) -> Run:
    def invoke(*arguments: Any) -> Any:
        return CliRunner().invoke(predict, ["--url", url, *map(str, arguments)])

    return invoke


@pytest.fixture
def table() -> pd.DataFrame:
    frame = pd.DataFrame(ROWS, columns=["a", "b", "c"])
    frame.insert(0, "patient", [f"p{index}" for index in range(100)])
    return frame


def _check(scored: pd.DataFrame) -> None:
    sums = ROWS.astype("f4").sum(axis=1)
    np.testing.assert_allclose(scored["scores_0"], sums, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scored["scores_1"], -sums, rtol=1e-5, atol=1e-6)
    assert scored["label"].tolist() == np.where(sums > 0, "high", "low").tolist()


def test_csv_with_a_kept_column(run: Run, table: pd.DataFrame, predictor: Predictor, tmp_path: Path) -> None:
    """Predictions stand beside the kept column, in order; chunks are of the program's largest batch."""
    table.to_csv(tmp_path / "rows.csv", index=False)
    result = run(tmp_path / "rows.csv", "--keep", "patient", "--output", tmp_path / "scored.csv")
    assert result.exit_code == 0, result.output
    assert "100 rows scored" in result.output
    scored = pd.read_csv(tmp_path / "scored.csv")
    assert scored["patient"].tolist() == table["patient"].tolist()
    _check(scored)
    assert len(predictor.requests) == 13
    assert not (tmp_path / "scored.csv.partial").exists()


def test_parquet_with_chosen_columns(run: Run, table: pd.DataFrame, tmp_path: Path) -> None:
    """Columns are taken in the order named, not in the file's."""
    table[["c", "patient", "a", "b"]].to_parquet(tmp_path / "rows.parquet")
    result = run(tmp_path / "rows.parquet", "--columns", "a,b,c", "--output", tmp_path / "scored.parquet")
    assert result.exit_code == 0, result.output
    _check(pd.read_parquet(tmp_path / "scored.parquet"))


def test_a_first_line_of_values_is_never_lost(
    run: Run, table: pd.DataFrame, predictor: Predictor, tmp_path: Path
) -> None:
    """It is refused until it is said whether it is a row or names, and the message repeats none of it."""
    path, output = tmp_path / "rows.csv", tmp_path / "scored.csv"
    table[["a", "b", "c"]].to_csv(path, index=False, header=False)
    result = run(path, "--output", output)
    assert result.exit_code == 1
    assert "--no-header" in result.output
    assert str(ROWS[0, 0])[:6] not in result.output
    assert predictor.requests == []
    assert run(path, "--no-header", "--output", output).exit_code == 0
    _check(pd.read_csv(output))


def test_columns_may_be_numbered(run: Run, tmp_path: Path) -> None:
    """Numbers as names, as pandas writes them: taken for names where that is said, or shown by a column."""
    path, output = tmp_path / "rows.csv", tmp_path / "scored.csv"
    pd.DataFrame(ROWS).to_csv(path, index=False)
    assert run(path, "--output", output).exit_code == 1
    for said in (["--header"], ["--columns", "0,1,2"]):
        assert run(path, *said, "--output", output).exit_code == 0
        _check(pd.read_csv(output))


def test_rows_without_a_header_have_columns_to_choose(run: Run, table: pd.DataFrame, tmp_path: Path) -> None:
    """They are f0, f1 and so on."""
    path, output = tmp_path / "rows.csv", tmp_path / "scored.csv"
    table.to_csv(path, index=False, header=False)
    result = run(path, "--no-header", "--keep", "f0", "--output", output)
    assert result.exit_code == 0, result.output
    scored = pd.read_csv(output)
    assert scored["f0"].tolist() == table["patient"].tolist()
    _check(scored)


def test_npy_to_npz(run: Run, tmp_path: Path) -> None:
    """Arrays go in and come out without a table."""
    np.save(tmp_path / "rows.npy", ROWS)
    result = run(tmp_path / "rows.npy", "--output", tmp_path / "scored.npz", "--chunk-rows", 33)
    assert result.exit_code == 0, result.output
    with np.load(tmp_path / "scored.npz") as scored:
        np.testing.assert_allclose(
            scored["scores"][:, 0], ROWS.astype("f4").sum(axis=1), rtol=1e-5, atol=1e-6
        )


def test_an_outage_is_waited_out(run: Run, predictor: Predictor, tmp_path: Path) -> None:
    """A chunk is tried again under the same request id until it is answered."""
    np.save(tmp_path / "rows.npy", ROWS)
    predictor.failing = lambda call: call % 2 == 1
    result = run(tmp_path / "rows.npy", "--output", tmp_path / "scored.csv", "--chunk-rows", 50)
    assert result.exit_code == 0, result.output
    _check(pd.read_csv(tmp_path / "scored.csv"))
    assert len(set(predictor.requests)) == 2
    assert len(predictor.requests) > 2


def test_a_job_goes_on_where_it_stopped(run: Run, predictor: Predictor, tmp_path: Path) -> None:
    """What was answered before an outage is kept, and only the rest is sent by the next run."""
    np.save(tmp_path / "rows.npy", ROWS)
    arguments = (
        tmp_path / "rows.npy",
        "--output",
        tmp_path / "scored.csv",
        "--chunk-rows",
        10,
        "--concurrency",
        1,
    )
    predictor.failing = lambda call: call > 4
    result = run(*arguments, "--patience-s", 0)
    assert result.exit_code == 1
    assert "40 of 100 rows are done" in result.output
    assert not (tmp_path / "scored.csv").exists()
    changed = run(*arguments, "--patience-s", 0, "--chunk-rows", 20)
    assert "differs in chunk_rows" in changed.output
    predictor.requests.clear()
    predictor.failing = lambda _: False
    assert run(*arguments).exit_code == 0
    assert len(predictor.requests) == 6
    _check(pd.read_csv(tmp_path / "scored.csv"))


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({"a": [1.0, np.nan], "b": [1, 2], "c": [1, 2]}, "column 'a' has 1 empty"),
        ({"a": ["x", "y"], "b": [1, 2], "c": [1, 2]}, "column 'a' holds string"),
        ({"a": [1, 2], "b": [1, 2]}, "has 2 columns, the program takes 3"),
        ({"a": [1, 2], "b": [1, 1e300], "c": [1, 2]}, r"the value at \[1, 1\]"),
    ],
)
def test_wrong_rows_are_refused_before_any_is_sent(
    run: Run, predictor: Predictor, tmp_path: Path, frame: dict[str, Any], message: str
) -> None:
    """The whole file is checked first; the message names column or position."""
    pd.DataFrame(frame).to_csv(tmp_path / "rows.csv", index=False)
    result = run(tmp_path / "rows.csv", "--output", tmp_path / "scored.csv")
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert pd.Series([result.output]).str.contains(message).all(), result.output
    assert predictor.requests == []


@pytest.mark.parametrize("output", ["scored.txt", "scored.npy"])
def test_outputs_that_cannot_be_written(run: Run, tmp_path: Path, output: str) -> None:
    """Unknown suffixes, and two outputs in one .npy, are errors that say what would do."""
    np.save(tmp_path / "rows.npy", ROWS[:2])
    result = run(tmp_path / "rows.npy", "--output", tmp_path / output)
    assert result.exit_code == 1
    assert ".npz" in result.output


def test_a_service_that_is_not_there(tmp_path: Path) -> None:
    """One line, no traceback."""
    np.save(tmp_path / "rows.npy", ROWS)
    arguments = [
        str(tmp_path / "rows.npy"),
        "--url",
        "http://127.0.0.1:9",
        "--output",
        str(tmp_path / "o.csv"),
    ]
    result = CliRunner().invoke(predict, arguments)
    assert result.exit_code == 1
    assert "cannot be reached" in result.output
    assert "Traceback" not in result.output


def test_programs_are_never_mixed(run: Run, predictor: Predictor, tmp_path: Path) -> None:
    """A service that changes its program in the middle stops the job, and answers of two models never mix."""
    np.save(tmp_path / "rows.npy", ROWS)

    def change(call: int) -> bool:
        if call == 3:
            predictor.manifest = predictor.manifest.model_copy(update={"name": "other"})
        return False

    predictor.failing = change
    arguments = (tmp_path / "rows.npy", "--output", tmp_path / "scored.csv", "--concurrency", 1)
    result = run(*arguments)
    assert result.exit_code == 1
    assert "changed its program" in result.output
    assert "differs in program" in run(*arguments).output
    assert run(*arguments, "--restart").exit_code == 0
    _check(pd.read_csv(tmp_path / "scored.csv"))


def test_every_option_is_documented() -> None:
    """docs/http.md has each option of the command."""
    page = (Path(__file__).parents[3] / "docs" / "http.md").read_text()
    for parameter in predict.params:
        for option in parameter.opts:
            assert not option.startswith("--") or f"`{option}`" in page, option
