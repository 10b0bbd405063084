"""Estimates before compiling, held against what runs really send; accuracy under the real protocol."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from click.testing import CliRunner
from skl2onnx import to_onnx
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

from converters import from_flax, from_onnx
from secure_runner.cli.estimate import estimate as command
from secure_runner.programs.accuracy import accuracy
from secure_runner.programs.estimate import FRAME_BYTES, LAN, WAN, estimate
from secure_runner.programs.files import read_program
from secure_runner.testing import run_private, simulate_function

X = np.random.default_rng(0).normal(size=(8, 12)).astype(np.float32)


class Network(nn.Module):
    """Layers with the operations that cost most: comparisons, an inner softmax, a norm."""

    @nn.compact
    def __call__(self, x):
        x = nn.LayerNorm()(nn.relu(nn.Dense(16)(x)))
        return nn.Dense(2)(x * nn.softmax(nn.Dense(16)(x)))


def _network():
    network = Network()
    return from_flax(network, network.init(jax.random.PRNGKey(0), X), X)


@pytest.mark.parametrize("protocol", ["aby3", "semi2k"])
@pytest.mark.parametrize("batch_size", [1, 8])
def test_estimates_are_within_a_fourth_of_what_is_sent(protocol, batch_size):
    """Bytes and messages; in ABY3 who sends in a truncation is drawn, so one run may differ by some more."""
    allowed = 1.25 if protocol == "semi2k" else 1.4
    model = _network()
    found = estimate(model, protocol=protocol, batch_size=batch_size)
    traffic = run_private(model, [X[:batch_size]], protocol=protocol, with_traffic=True).traffic
    assert found.unpriced == ()
    carried = traffic.sent_bytes + FRAME_BYTES * traffic.messages
    assert 1 / allowed < found.sent_bytes / carried < allowed
    assert 1 / allowed < found.messages / traffic.messages < allowed


@pytest.mark.parametrize("batch_size", [1, 8])
def test_estimates_of_cheetah_are_within_a_fourth_of_what_is_sent(batch_size):
    """By both parties: one sends encrypted factors, the other answers. What a session sets up is in a run of
    two networks as in one of three, and so not in their difference."""
    model = _perceptron(16)
    found = estimate(model, protocol="cheetah", batch_size=batch_size)
    two, three = (_cheetah_traffic(model, batch_size, times, found.packed_products) for times in (2, 3))
    sent = (three.sent_bytes - two.sent_bytes + three.received_bytes - two.received_bytes) / 2
    messages = three.messages - two.messages
    assert found.unpriced == ()
    assert 1 / 1.25 < found.sent_bytes / (sent + FRAME_BYTES * messages) < 1.25
    assert 1 / 1.25 < found.messages / messages < 1.25


def _perceptron(width):
    network = nn.Sequential([nn.Dense(width), nn.relu, nn.Dense(2)])
    return from_flax(network, network.init(jax.random.PRNGKey(0), X), X)


def _cheetah_traffic(model, batch_size, times, packed):
    def predict(params, *xs):
        return tuple(y for x in xs[:times] for y in model.private_predict(params, x))

    return simulate_function(
        predict,
        model.params,
        {f"x{index}": X[:batch_size] + index for index in range(3)},
        protocol="cheetah",
        settings={"cheetah_2pc_config": {"disable_matmul_pack": not packed}},
        with_traffic=True,
    ).traffic


def test_values_of_one_owner_are_computed_at_home():
    """With cheetah a product of two params takes nobody else, nor one of features; else they are shares."""
    weights = {"w": np.ones((12, 3), np.float32), "scale": np.ones(12, np.float32)}
    model = from_flax(lambda v, x: (x * x) @ (v["w"] * v["scale"][:, None]), weights, X)
    alone, shared = (estimate(model, protocol=name) for name in ("cheetah", "aby3"))
    assert [op.kind for op in alone.ops] == ["dot.sv"]
    assert {op.kind for op in shared.ops} == {"dot", "multiply.ss"}


def test_answers_are_packed_where_that_is_faster_on_a_lan():
    """Packing 256 results takes longer than to send 8 ciphertexts of them; 32 times 256 would take 256."""
    weights = {"w": np.ones((256, 256), np.float32)}
    model = from_flax(lambda v, x: x @ v["w"], weights, np.ones((1, 256), np.float32))
    assert not estimate(model, protocol="cheetah", batch_size=1).packed_products
    assert estimate(model, protocol="cheetah", batch_size=32).packed_products


def test_bits_of_trees_cost_little():
    """They become numbers within a product, which is cheap, and not by an adder for each."""
    labels = X[:, 0] + X[:, 1] > 0
    fitted = GradientBoostingClassifier(n_estimators=20, max_depth=3).fit(X, labels)
    model = from_onnx(to_onnx(fitted, X[:1], options={"zipmap": False}))
    found = estimate(model, protocol="aby3", batch_size=8)
    traffic = run_private(model, [X], protocol="aby3", with_traffic=True).traffic
    assert found.sent_bytes < 1.4 * (traffic.sent_bytes + FRAME_BYTES * traffic.messages)


def test_a_measured_run_says_how_fast_machines_are():
    """Compute is scaled by it, transfer and round trips are not."""
    found = estimate(_network(), protocol="semi2k")
    speed = found.speed(found.compute_s / 2)
    assert speed == pytest.approx(2)
    saved = found.seconds(LAN) - found.seconds(LAN, speed)
    assert saved == pytest.approx(found.compute_s / 2)


def test_rounds_decide_on_a_wan_and_a_peeled_model_has_few():
    """A wide network is slower, and the peeled activation is most of a small model's rounds."""
    weights = {"w": np.ones((12, 2), np.float32)}
    sigmoid = lambda v, x: nn.sigmoid(x @ v["w"])  # noqa: E731
    peeled = estimate(from_flax(sigmoid, weights, X), protocol="aby3")
    whole = estimate(from_flax(sigmoid, weights, X, rewrites={"peel_outputs": False}), protocol="aby3")
    assert peeled.seconds(LAN) < peeled.seconds(WAN) < whole.seconds(WAN)
    assert whole.rounds > 10 * peeled.rounds
    assert "fit for requests" in peeled.verdict


def test_a_hopeless_model_is_called_hopeless_with_numbers():
    """Ten million sigmoids inside a model: nothing is compiled to find that out."""
    weights = {"w": np.ones((12, 300_000), np.float32)}
    model = from_flax(lambda v, x: nn.sigmoid(x @ v["w"]).sum(-1), weights, X)
    found = estimate(model, protocol="aby3", batch_size=32)
    assert "hopeless under aby3" in found.verdict
    assert "GB" in found.verdict
    assert "exponential" in found.verdict


def test_the_command_prints_a_row_for_each_protocol_and_batch(tmp_path):
    """Every protocol unless one is chosen; a sentence for each at the end."""
    fitted = LogisticRegression().fit(X, np.arange(8) % 2)
    path = tmp_path / "credit.onnx"
    path.write_bytes(to_onnx(fitted, X[:1]).SerializeToString())
    result = CliRunner().invoke(command, [str(path), "--batch-size", "4", "--ops"])
    assert result.exit_code == 0, result.output
    assert result.output.count("fit for requests under") == 3, result.output
    assert "dot" in result.output
    again = CliRunner().invoke(command, [str(path), "--protocol", "aby3", "--measured-ms", "5"])
    assert again.exit_code == 0, again.output
    assert "choose it" in CliRunner().invoke(command, [str(path), "--measured-ms", "5"]).output


def test_a_program_says_what_its_run_was_estimated_to_cost(small_files, small_model):
    """The manifest of a built program, for any line, as the estimate for its smallest batch."""
    cost = read_program(small_files.program_dir).cost
    found = estimate(small_model.model, protocol="semi2k", batch_size=1)
    assert cost.batch_size == 1
    for network in (LAN, WAN):
        said = cost.seconds(network.round_trip_s, network.bytes_per_s)
        assert said == pytest.approx(found.seconds(network), rel=1e-3)


def test_accuracy_is_reported_for_each_output():
    """Labels by agreement, scores by error, under the protocol that is asked for."""
    fitted = LogisticRegression().fit(X, np.arange(8) % 2)
    model = from_onnx(to_onnx(fitted, X[:1], options={"zipmap": False}))
    label, scores = accuracy(
        model, X, expected=(fitted.predict(X), fitted.predict_proba(X)), protocol="semi2k"
    )
    assert (label.agreement, label.largest_error) == (1.0, None)
    assert scores.agreement == 1.0
    assert 0 < scores.largest_error < 1e-3
    assert "semi2k" in str(scores)
