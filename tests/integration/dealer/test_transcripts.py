"""What transcript pinning rests on: transcripts do not depend on data, nor on which run it is."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import numpy as np
import pytest

from benchmarks.dealt_parties import SEMI2K, configs, dealt, record, register
from benchmarks.spu_parties import PartyError, SpuParties, compile_function
from secure_runner.dealer import DealerClient, DealerProcess, recording_dealer

_SHAPES = ((2, 5), (5, 3))


@pytest.fixture(scope="module")
def linked() -> Iterator[SpuParties]:
    """One link for all tests of this module; the last one leaves it broken."""
    with SpuParties(2, recv_timeout_ms=6_000) as parties:
        yield parties


def _model(x, w):
    return jax.nn.softmax(jax.nn.relu(x @ w))


def _draw(seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(np.float32) for shape in _SHAPES]


def test_real_processes_ask_for_the_same_in_every_run(linked: SpuParties) -> None:
    """Runs of one runtime on different data, its first included, and a simulation on zeros: the same."""
    compiled = compile_function(_model, *_draw(0))
    simulated = record(compiled, _draw(0), SEMI2K)
    with recording_dealer() as recorder:
        config = dealt(SEMI2K, recorder.beaver_config(1))
        linked.open("recorded", [config, config])
        before_the_first_run = recorder.take()
        digests = set()
        for seed in range(3):
            linked.run("recorded", compiled, _draw(seed), SEMI2K)
            digests.add(recorder.take().digest)

    assert before_the_first_run.steps == ()
    assert digests == {simulated.digest}


def test_each_executable_has_a_session_of_its_own(dealer: DealerProcess, linked: SpuParties) -> None:
    """Two executables on one link, in turn, each on the runtime that was registered for it."""
    narrow, wide = _draw(0), [np.tile(_draw(0)[0], (4, 1)), _draw(0)[1]]
    for name, inputs in (("rung-2", narrow), ("rung-8", wide)):
        compiled = compile_function(_model, *inputs)
        grants = register(dealer.address, dealer.public_key, name, record(compiled, inputs, SEMI2K))
        linked.open(name, configs(dealer.address, grants, SEMI2K))

    for name, inputs in (("rung-8", wide), ("rung-2", narrow), ("rung-8", wide)):
        outputs, _ = linked.run(name, compile_function(_model, *inputs), inputs, SEMI2K)
        np.testing.assert_allclose(outputs[0], _model(*inputs), atol=1e-2)


def test_another_executable_than_registered_is_refused(dealer: DealerProcess, linked: SpuParties) -> None:
    """The dealer ends the job, with the step that was expected and the one that came in the message."""
    compiled = compile_function(_model, *_draw(0))
    grants = register(dealer.address, dealer.public_key, "other", record(compiled, _draw(0), SEMI2K))
    linked.open("other", configs(dealer.address, grants, SEMI2K))
    larger = [np.tile(_draw(0)[0], (4, 1)), _draw(0)[1]]

    with pytest.raises(PartyError, match="outside the registered transcript: expected step 1 of"):
        linked.run("other", compile_function(_model, *larger), larger, SEMI2K)

    with DealerClient(dealer.address, dealer.public_key) as client:
        assert client.status(grants[0].handle)["state"] == "failed"
