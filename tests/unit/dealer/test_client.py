"""The parties' client of the dealer: what it keeps of large answers."""

from __future__ import annotations

import base64
import gc
import http.server
import threading
import tracemalloc
from collections.abc import Iterator

import pytest

from secure_runner.dealer import DealerClient
from secure_runner.errors import AgreementError

_BODY_BYTES = 1 << 20


class _Answers(http.server.BaseHTTPRequestHandler):
    """Large corrections, or a refusal for the job ``refused``."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        refused = "refused" in self.path
        body = b'{"error": "job", "message": "no"}' if refused else bytes(_BODY_BYTES)
        self.send_response(409 if refused else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def client() -> Iterator[DealerClient]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    key = base64.b64encode(bytes(32)).decode()
    with DealerClient(f"127.0.0.1:{server.server_address[1]}", key) as made:
        yield made
    server.shutdown()
    server.server_close()


def test_corrections_are_freed_without_the_garbage_collector(client: DealerClient) -> None:
    """A party's collector comes by rarely; what SPU has used must be gone at once."""
    client.corrections("handle", 0, ["a", "b"])
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        for _ in range(20):
            assert len(client.corrections("handle", 0, ["a", "b"])) == _BODY_BYTES
        kept_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    assert kept_bytes < 4 * _BODY_BYTES


def test_a_refusal_is_an_error_with_the_dealers_reason(client: DealerClient) -> None:
    """Not corrections."""
    with pytest.raises(AgreementError, match="no"):
        client.corrections("refused", 0, ["a", "b"])
