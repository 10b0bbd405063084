"""What a party's process is told by its environment."""

import pytest

from secure_runner.sessions.environment import party_environment


def test_a_party_has_one_thread_for_products_and_gives_large_buffers_back(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OMP_THREAD_LIMIT", raising=False)
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    environment = party_environment()
    assert environment["OMP_THREAD_LIMIT"] == "1"
    assert environment["MALLOC_MMAP_THRESHOLD_"] == "4194304"
    # Without it, the size above would have the heap cut back, and grown again, in each run.
    assert environment["MALLOC_TRIM_THRESHOLD_"] == "4194304"


def test_what_the_operator_has_set_wins(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OMP_THREAD_LIMIT", "8")
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "131072")
    environment = party_environment()
    assert environment["OMP_THREAD_LIMIT"] == "8"
    assert environment["MALLOC_MMAP_THRESHOLD_"] == "131072"


def test_settings_of_the_runners_own_server_stay_with_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BENTOML_HOME", "/nowhere")
    assert not [name for name in party_environment() if name.startswith(("BENTOML_", "CIRCUS_"))]
