"""Who may ask, and how much."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from secure_runner.errors import ConfigError, OverloadedError, UnavailableError
from secure_runner.http.limits import Limiter
from secure_runner.http.settings import ClientLimits, HttpClient, HttpSettings

Make = Callable[..., Any]
ROWS = {"inputs": [[1, 2, 3]]}


def _client(name: str, token: str, **limits: Any) -> HttpClient:
    digest = hashlib.sha256(token.encode()).hexdigest()
    return HttpClient(name=name, token_sha256=digest, limits=ClientLimits(**limits) if limits else None)


@pytest.fixture
def guarded(predictor: Any, client_of: Make) -> Any:
    clients = (_client("ward-3", "token-a", rows_per_request=2), _client("batch", "token-b"))
    return client_of(predictor, authentication="tokens", clients=clients)


def test_a_known_token_names_the_client(guarded: Any, predictor: Any) -> None:
    """The runner learns the name that belongs to the token, whatever the scheme's case."""
    for token, name in (("token-a", "ward-3"), ("token-b", "batch")):
        answer = guarded.post("/predict", json=ROWS, headers={"authorization": f"bearer {token}"})
        assert answer.status_code == 200
        assert predictor.calls[-1]["client"] == name


@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", "Bearer ", "Bearer token-c", "Basic token-a", "token-a"]
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/predict"),
        ("GET", "/manifest"),
        ("GET", "/v2/models/sum"),
        ("GET", "/v2/models/sum/ready"),
        ("POST", "/v2/models/sum/infer"),
    ],
)
def test_without_a_known_token_there_is_nothing(
    guarded: Any, predictor: Any, authorization: str | None, method: str, path: str
) -> None:
    """Every route but health asks for a token, and none is computed without."""
    headers = {} if authorization is None else {"authorization": authorization}
    answer = guarded.request(method, path, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert predictor.calls == []


def test_health_is_open(guarded: Any) -> None:
    """Probes have no token."""
    assert guarded.get("/v2/health/live").status_code == 200
    assert guarded.get("/v2/health/ready").status_code == 200
    assert guarded.get("/v2").status_code == 200


def test_rows_per_request_follow_the_client(guarded: Any) -> None:
    """A client's own limit goes before the general one."""
    three = {"inputs": [[1, 2, 3]] * 3}
    answer = guarded.post("/predict", json=three, headers={"authorization": "Bearer token-a"})
    assert answer.json()["error"]["code"] == "too_many_rows"
    assert (
        guarded.post("/predict", json=three, headers={"authorization": "Bearer token-b"}).status_code == 200
    )


class _Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_bucket_of_requests() -> None:
    """A burst passes at once, then one request each 1/rate seconds; each client has a bucket of its own."""
    clock = _Clock()
    settings = HttpSettings(authentication="none", limits=ClientLimits(requests_per_s=2, burst=3))
    limiter = Limiter(settings, monotonic_s=clock, utc_s=clock)
    for _ in range(3):
        limiter.admit_request("a")
    with pytest.raises(OverloadedError) as refused:
        limiter.admit_request("a")
    assert refused.value.code == "rate_limited"
    assert refused.value.retry_after_s == pytest.approx(0.5)
    limiter.admit_request("b")
    clock.now_s += 0.5
    limiter.admit_request("a")
    with pytest.raises(OverloadedError):
        limiter.admit_request("a")


def test_rows_of_a_day() -> None:
    """Rows count until midnight UTC; a refused batch counts nothing, and rows not computed are given back."""
    clock = _Clock()
    settings = HttpSettings(authentication="none", limits=ClientLimits(rows_per_day=10))
    limiter = Limiter(settings, monotonic_s=clock, utc_s=clock)
    limiter.admit_rows(None, 7)
    with pytest.raises(OverloadedError) as refused:
        limiter.admit_rows(None, 4)
    assert refused.value.code == "daily_rows"
    assert refused.value.retry_after_s == pytest.approx(86_400 - 1000)
    limiter.admit_rows(None, 3)
    limiter.return_rows(None, 2)
    limiter.admit_rows(None, 2)
    with pytest.raises(OverloadedError):
        limiter.admit_rows(None, 1)
    clock.now_s = 86_400.0
    limiter.admit_rows(None, 10)


def test_limits_over_http(predictor: Any, client_of: Make) -> None:
    """429 with Retry-After; an outage of the runner uses up nothing of the day."""
    client = client_of(predictor, limits=ClientLimits(rows_per_day=2))
    predictor.fail_with = UnavailableError("no session")
    for _ in range(3):
        assert client.post("/predict", json=ROWS).status_code == 503
    predictor.fail_with = None
    answers = [client.post("/predict", json=ROWS) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[2].json()["error"]["code"] == "daily_rows"
    assert int(answers[2].headers["retry-after"]) > 0


def test_settings_of_a_file(tmp_path: Path) -> None:
    """What is written is what holds; a token's digest is never shown."""
    path = tmp_path / "http.yaml"
    digest = hashlib.sha256(b"t").hexdigest()
    path.write_text(
        f"clients:\n  - {{name: ward-3, token_sha256: {digest}, limits: {{rows_per_day: 5}}}}\n"
        "max_body_bytes: 1000\n"
    )
    settings = HttpSettings.load(path, embedded=False)
    assert settings.authentication == "tokens"
    assert settings.clients[0].limits == ClientLimits(rows_per_day=5)
    assert settings.max_body_bytes == 1000
    assert digest not in repr(settings)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "clients"),
        ("authentication: tokens", "clients"),
        ("authentication: password", "authentication"),
        ("clients: [{name: a, token_sha256: secret-token}]", "token_sha256"),
        (f"clients: [{{name: a b, token_sha256: {'0' * 64}}}]", "name"),
        (
            f"clients: [{{name: a, token_sha256: {'0' * 64}}}, {{name: a, token_sha256: {'1' * 64}}}]",
            "name",
        ),
        ("authentication: none\nmax_deadline_s: 1", "max_deadline_s"),
        ("authentication: none\nunknown: 1", "unknown"),
        ("a: [", "cannot be read"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, text: str, named: str) -> None:
    """A wrong file stops the service with the field's name, without repeating what is in it."""
    path = tmp_path / "http.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=named) as refused:
        HttpSettings.load(path, embedded=True)
    assert "secret-token" not in str(refused.value)


def test_only_embedded_lets_anybody_in_by_default() -> None:
    """A cluster without an http.yaml does not start."""
    assert HttpSettings.load(None, embedded=True).authentication == "none"
    with pytest.raises(ConfigError, match="SECURE_RUNNER_HTTP"):
        HttpSettings.load(None, embedded=False)
