"""A new program beside the old one: docs/operations.md, "Changing a program", with requests under way."""

from __future__ import annotations

import threading
from collections import Counter

import numpy as np
import pytest

ATOL = 1e-2


@pytest.fixture(scope="module")
def new_model(small_model):
    """The same architecture, trained again."""
    return type(small_model).make(seed=2)


class Front:
    """What stands before both versions, as a proxy does: it sends each request to one of them."""

    def __init__(self, first):
        self.target = first
        self.under_way: Counter[int] = Counter()
        self.outcomes: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._over = threading.Event()

    def ask_until_over(self, number):
        draw = np.random.default_rng(number)
        while not self._over.is_set():
            with self._lock:
                version, deployed, model = self.target
                self.under_way[version] += 1
            rows = model.rows[draw.integers(0, 64, size=draw.integers(1, 12))]
            try:
                answer = deployed.predict(rows)
                right = np.allclose(answer, model.expected(rows), rtol=0, atol=ATOL)
                outcome = "right" if right else "wrong"
            except Exception as error:
                outcome = type(error).__name__
            with self._lock:
                self.under_way[version] -= 1
                self.outcomes[f"{outcome}, version {version}"] += 1

    def switch(self, target):
        with self._lock:
            self.target = target

    def end(self):
        self._over.set()


def test_both_versions_serve_while_requests_move_over(
    deploy, small_model, small_files, new_model, tmp_path_factory
):
    """The new version forms its session beside the old one; no request is refused or answered wrongly."""
    options = {"protocol": "semi2k", "insecure": True}
    old = deploy(**options)
    front = Front((1, old, small_model))
    clients = [threading.Thread(target=front.ask_until_over, args=(n,)) for n in range(4)]
    for client in clients:
        client.start()
    try:
        old.wait_until(lambda: front.outcomes["right, version 1"] > 20, 60)
        new = deploy(files=new_model.save(tmp_path_factory.mktemp("new")), **options)
        assert old.ready
        np.testing.assert_allclose(
            new.predict(new_model.rows), new_model.expected(new_model.rows), rtol=0, atol=ATOL
        )
        front.switch((2, new, new_model))
        old.wait_until(lambda: not front.under_way[1], 60)
        old.stop()
        new.wait_until(lambda: front.outcomes["right, version 2"] > 20, 60)
    finally:
        front.end()
        for client in clients:
            client.join()
    assert set(front.outcomes) == {"right, version 1", "right, version 2"}
