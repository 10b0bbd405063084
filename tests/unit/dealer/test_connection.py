"""The server against clients that do not keep to HTTP, or to the limits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secure_runner.dealer.config import DealerConfig, DealerLimits
from secure_runner.dealer.identity import Identity
from secure_runner.dealer.server import Dealer

_LIVEZ = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n"
_LIMITS = DealerLimits(request_timeout_s=0.3, connections=4, connections_per_client=4, request_bytes=1000)


def _asking_ahead(body: bytes) -> bytes:
    return b"POST /jobs/0/corrections HTTP/1.1\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


def _with_dealer(work: Callable[[str, int], Awaitable[None]]) -> None:
    async def scenario() -> None:
        dealer = Dealer.for_jobs(DealerConfig(limits=_LIMITS), Identity())
        host, port = await dealer.start()
        try:
            await asyncio.wait_for(work(host, port), 20)
        finally:
            await dealer.close()

    asyncio.run(scenario())


async def _exchange(host: str, port: int, data: bytes) -> bytes:
    """Send, half-close, and read all that comes until the dealer closes."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(data)
    try:
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def _is_alive(host: str, port: int) -> bool:
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(_LIVEZ)
    answer = await reader.readuntil(b"}")
    writer.close()
    return answer.startswith(b"HTTP/1.1 200 OK")


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=80),
            st.just(_LIVEZ),
            st.just(b"POST /jobs HTTP/1.1\r\n"),
            st.binary(max_size=80).map(_asking_ahead),
        ),
        max_size=3,
    )
)
def test_any_bytes_leave_the_dealer_alive(tried: Any, pieces: list[bytes]) -> None:
    """Every such connection is answered or closed within the time limit, and the next client is served."""

    async def work(host: str, port: int) -> None:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"".join(pieces))
        writer.write_eof()
        answer = await asyncio.wait_for(reader.read(), 3)
        tried.answer("dealer's connections", answer)
        assert b"HTTP/1.1 5" not in answer
        writer.close()
        assert await _is_alive(host, port)

    _with_dealer(work)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /livez HTTP/1.1\r\nx: " + b"y" * 20_000, b"400"),
        (b"GET /" + b"a" * 1000 + b" HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /nothing HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /livez HTTP/1.1\r\ncontent-length: 0\r\n\r\n", b"404"),
        (b"POST /x HTTP/1.1\r\ncontent-length: 2000\r\n\r\n" + b"a" * 2000, b"413"),
        (b"", b"408"),
        (b"POST /jobs HTTP/1.1\r\ncontent-length: 10\r\n\r\nabc", b"408"),
        (b"POST /jobs HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}" + _LIVEZ, b"400"),
    ],
    ids=["no_http", "headers", "path", "unknown", "method", "body", "silence", "slow", "pipelined"],
)
def test_limits_close_the_connection(data: bytes, status: bytes) -> None:
    """With a status that says which kind of limit."""

    async def work(host: str, port: int) -> None:
        answer = await _exchange(host, port, data)
        assert b"HTTP/1.1 " + status in answer

    _with_dealer(work)


def test_connections_are_limited() -> None:
    """One too many is told so; after another has closed, there is room again."""

    async def work(host: str, port: int) -> None:
        held = [await asyncio.open_connection(host, port) for _ in range(4)]
        assert b"429" in await _exchange(host, port, b"")
        held[0][1].close()
        await asyncio.sleep(0.05)
        assert await _is_alive(host, port)
        for _, writer in held[1:]:
            writer.close()

    _with_dealer(work)


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"[]", b"400", b"corrections"),
        (b'{"first": -1, "encrypted_seeds": ["a", "b"]}', b"400", b"first:"),
        (b'{"first": 0, "encrypted_seeds": ["a"]}', b"400", b"encrypted_seeds:"),
        (b'{"first": 0, "encrypted_seeds": ["a", "b"]}', b"409", b"no such job"),
    ],
)
def test_a_relays_questions_are_validated(body: bytes, status: bytes, says: bytes) -> None:
    """What is no question is told so; what is one is about a job of the peer's."""

    async def work(host: str, port: int) -> None:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(_asking_ahead(body))
        answer = await reader.readuntil(b'"}')
        assert answer.startswith(b"HTTP/1.1 " + status)
        assert says in answer
        writer.close()

    _with_dealer(work)


def test_registrations_are_validated() -> None:
    """The answer names the field."""

    async def work(host: str, port: int) -> None:
        reader, writer = await asyncio.open_connection(host, port)
        body = b'{"job": "a b", "parties": ["one", "one"], "rank": -1}'
        writer.write(b"POST /jobs HTTP/1.1\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        answer = await reader.readuntil(b'"}')
        assert answer.startswith(b"HTTP/1.1 400")
        assert b"job:" in answer
        assert b"rank:" in answer
        writer.close()

    _with_dealer(work)
