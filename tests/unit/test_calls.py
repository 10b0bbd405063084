"""Calls between an API service and its runner: each gets its own answer, or an error at once."""

from __future__ import annotations

import asyncio
import stat
import struct

import pytest

from secure_runner.errors import UnavailableError
from secure_runner.runner.calls import CallClient, CallServer


async def _reversed_later(body: bytes) -> bytes:
    """Short calls are answered before long ones."""
    await asyncio.sleep(len(body) / 1e6)
    return body[::-1]


async def _reversed_at_once(body: bytes) -> bytes:
    return body[::-1]


def _client_of(*paths):
    """A client that finds a server at the next of ``paths`` each time it looks."""
    left = iter(paths)

    async def locate() -> str:
        return str(next(left))

    return CallClient(locate)


async def _with_server(answer, use):
    server = CallServer(answer)
    path = await server.open()
    try:
        return await use(server, path)
    finally:
        await server.close()


def test_each_call_gets_its_own_answer():
    """Many at a time over one connection, of any size, whatever the order of the answers."""
    bodies = [bytes([index]) * size for index, size in enumerate([100_000, 0, 1, 300_000, 17, 70_000])]

    async def use(_, path):
        client = _client_of(path)
        return await asyncio.gather(*(client.call(body + b"!") for body in bodies))

    answers = asyncio.run(_with_server(_reversed_later, use))
    assert answers == [b"!" + body for body in bodies]


def test_a_server_that_goes_away_fails_its_calls_at_once():
    """Nothing has taken its place, so the caller says 503 and does not wait for a deadline."""

    async def never(_: bytes) -> bytes:
        return await asyncio.Event().wait()

    async def use(server, path):
        calls = asyncio.gather(*(_client_of(path).call(b"x") for _ in range(3)), return_exceptions=True)
        await asyncio.sleep(0.05)
        await server.close()
        return await asyncio.wait_for(calls, 2)

    errors = asyncio.run(_with_server(never, use))
    assert [(type(error), error.code) for error in errors] == [(UnavailableError, "runner_unreachable")] * 3


def test_what_was_answered_before_the_server_goes_away_arrives():
    """It goes away in the very moment in which the answer is there, as at the end of a drained service."""

    async def main() -> bytes:
        answered = asyncio.Event()

        async def answer(body: bytes) -> bytes:
            answered.set()
            return body[::-1]

        server = CallServer(answer)
        path = await server.open()

        async def close() -> None:
            await answered.wait()
            await server.close()

        closing = asyncio.create_task(close())
        try:
            return await _client_of(path).call(b"abc")
        finally:
            await closing

    assert asyncio.run(main()) == b"cba"


def test_calls_under_way_are_answered_by_the_server_that_takes_over():
    """It is asked what the first one was asked; one that goes away as well is an error."""

    async def never(_: bytes) -> bytes:
        return await asyncio.Event().wait()

    async def run(after):
        first, second = CallServer(never), CallServer(after)
        client = _client_of(await first.open(), await second.open())
        calls = asyncio.gather(*(client.call(b"ab") for _ in range(3)), return_exceptions=True)
        await asyncio.sleep(0.05)
        await first.close()
        await asyncio.sleep(0.05)
        await second.close()
        return await asyncio.wait_for(calls, 2)

    assert asyncio.run(run(_reversed_at_once)) == [b"ba"] * 3
    errors = asyncio.run(run(never))
    assert [(type(error), error.code) for error in errors] == [(UnavailableError, "runner_ended")] * 3


def test_a_server_that_was_started_anew_is_found_again():
    """It listens elsewhere; the next call asks where."""

    async def run() -> bytes:
        first, second = CallServer(_reversed_later), CallServer(_reversed_later)
        client = _client_of(await first.open(), await second.open())
        await client.call(b"ab")
        await first.close()
        await asyncio.sleep(0.05)
        try:
            return await client.call(b"cd")
        finally:
            await second.close()

    assert asyncio.run(run()) == b"dc"


def test_no_server_is_an_error_that_says_so():
    """Neither a hang nor an error of the operating system."""
    with pytest.raises(UnavailableError, match="cannot be reached") as caught:
        asyncio.run(_client_of("/nowhere/calls").call(b"x"))
    assert caught.value.code == "runner_unreachable"


def test_a_caller_that_gives_up_disturbs_nobody():
    """Its answer is dropped when it comes."""

    async def use(_, path):
        client = _client_of(path)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(client.call(b"x" * 200_000), 0.05)
        return await asyncio.gather(client.call(b"ab"), client.call(b"c" * 250_000))

    assert asyncio.run(_with_server(_reversed_later, use)) == [b"ba", b"c" * 250_000]


def test_calls_of_a_lost_connection_are_cancelled():
    """Rows that nobody waits for need not be computed."""
    cancelled = asyncio.Event()

    async def wait(_: bytes) -> bytes:
        try:
            return await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def use(_, path):
        _, writer = await asyncio.open_unix_connection(path)
        writer.write(struct.pack("<QQ", 1, 0) + b"x")
        await asyncio.sleep(0.05)
        writer.close()
        await asyncio.wait_for(cancelled.wait(), 2)

    asyncio.run(_with_server(wait, use))


def test_an_absurd_length_ends_the_connection():
    """Nothing of that size is waited for."""

    async def use(_, path):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(struct.pack("<QQ", 1 << 60, 0))
        try:
            return await asyncio.wait_for(reader.read(), 2)
        except ConnectionResetError:
            return b""
        finally:
            writer.close()

    assert asyncio.run(_with_server(_reversed_later, use)) == b""


def test_only_this_user_finds_the_socket_and_nothing_is_left_of_it():
    """The directory is the lock; it goes with the server."""

    async def use(server, path):
        mode = stat.S_IMODE(path.parent.stat().st_mode)
        await server.close()
        return mode, path.parent.exists()

    assert asyncio.run(_with_server(_reversed_later, use)) == (0o700, False)
