"""A large reply takes as long to decode as its peer likes: its call ends at its deadline, and others go on meanwhile.

The decoding is held here until a test lets it go on: no test depends on how long it takes.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from amqp_rpc import AsyncClient, CallTimeout, Client, Server, Service
from amqp_rpc.client.bridge import AwaitedCall, Bridge
from amqp_rpc.client.call import CallOptions
from amqp_rpc.client.future import BlockingCall
from amqp_rpc.client.reply import Decoder, Reply
from amqp_rpc.message import codec
from amqp_rpc.message.codec import LARGE
from amqp_rpc.message.envelope import Properties
from tests.waiting import until

Serve = Callable[..., Server]

SIZE = LARGE + 1000
#: The last arguments of a call that no client makes.
CALL = 60.0, Decoder(None, 2 * SIZE), CallOptions()


class Gate:
    """Holds the decoding of large bodies, and knows the threads on which it was asked for."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.threads: list[str] = []


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate, decode = Gate(), codec.decode

    def held(body: bytes, *args: Any, **kwargs: Any) -> Any:
        if len(body) > LARGE:
            gate.threads.append(threading.current_thread().name)
            gate.opened.wait(60)
        return decode(body, *args, **kwargs)

    monkeypatch.setattr(codec, "decode", held)
    yield gate
    gate.opened.set()


@pytest.fixture
def text(serve: Serve, service: Service) -> Callable[[int], str]:
    """A function that returns a text of that many bytes."""

    @service.rpc
    def text(length: int) -> str:
        return "x" * length

    serve(service)
    return text


LATE = "its reply came, and is so large that it was not decoded in time. It may have run"


def test_calls_end_at_their_deadlines_while_a_reply_is_decoded(client: Client, text: Any, gate: Gate) -> None:
    assert client.call(text, 3) == "xxx"
    ended = threading.Event()
    late = client.with_options(timeout=2)
    unwatched, waited = late.submit(text, SIZE), late.submit(text, SIZE)
    unwatched.add_done_callback(lambda _: ended.set())
    # The first of the three is being decoded, and the others wait for their turn.
    with pytest.raises(CallTimeout, match=LATE) as error:
        late.call(text, SIZE)
    with pytest.raises(CallTimeout, match=LATE):
        waited.result()
    assert ended.wait(30), "no thread waits for it"
    assert error.value.may_have_run
    assert client.counters["timeouts"] == 3
    assert client.call(text, 3) == "xxx"
    assert gate.threads == ["amqp_rpc large replies"]
    gate.opened.set()
    # What is late is not decoded any more, changes nothing, and is in nobody's way.
    assert client.submit(text, SIZE).result() == client.call(text, SIZE) == "x" * SIZE
    assert len(gate.threads) == 3
    with pytest.raises(CallTimeout, match=LATE):
        unwatched.result()


def test_a_result_of_map_that_is_asked_for_after_its_deadline_is_read_all_the_same() -> None:
    late = BlockingCall("1", "q", "f", b"", 0.0, Decoder(None, 2 * SIZE, many=True), CallOptions())
    late.answer(Reply(Properties(), b"x" * SIZE))
    assert late.result() == ["x" * SIZE]


def test_calls_of_an_event_loop_end_while_a_large_reply_is_decoded_elsewhere(url: str, text: Any, gate: Gate) -> None:
    async def main() -> None:
        async with AsyncClient(url, timeout=20) as client:
            assert await client.call(text, 3) == "xxx"
            large = asyncio.ensure_future(client.with_options(timeout=2).call(text, SIZE))
            await asyncio.to_thread(until, lambda: gate.threads)
            assert await client.call(text, 3) == "xxx"
            with pytest.raises(CallTimeout, match=LATE):
                await large
            cancelled = asyncio.ensure_future(client.call(text, SIZE))
            await asyncio.sleep(0)
            cancelled.cancel()
            gate.opened.set()
            assert await client.call(text, SIZE) == "x" * SIZE
            assert [each async for each in client.map(text, [SIZE, 3])] == ["x" * SIZE, "xxx"]

    asyncio.run(main())
    assert {*gate.threads} == {"amqp_rpc large replies"}


def test_an_event_loop_reads_no_large_result_item_or_event_itself(
    url: str, serve: Serve, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    @service.task(queue=f"{service.name}.tasks")
    def text(length: int) -> str:
        return "x" * length

    serve(service)
    threads: list[int] = []
    decode, given_up = codec.decode, threading.Event()

    def seen(body: bytes, *args: Any, **kwargs: Any) -> Any:
        if len(body) > LARGE:
            threads.append(threading.get_ident())
            if len(threads) == 4:
                given_up.wait(20)
        return decode(body, *args, **kwargs)

    monkeypatch.setattr(codec, "decode", seen)
    topic = f"t{secrets.token_hex(6)}"

    async def main() -> None:
        async with AsyncClient(url, timeout=20) as client:
            task = await client.enqueue(text, SIZE)
            assert await task.result() == "x" * SIZE
            async with client.queue(f"{service.name}.items", queue_type="classic") as items:
                await items.put("x" * SIZE)
                assert await items.get() == "x" * SIZE
            async with client.listen(topic) as events:
                await client.publish(topic, "x" * SIZE)
                assert (await anext(events)).payload == "x" * SIZE
                # Who gives up while one is read gets it the next time.
                await client.publish(topic, "y" * SIZE)
                reading = asyncio.ensure_future(anext(events))
                await asyncio.to_thread(until, lambda: len(threads) == 4)
                reading.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await reading
                given_up.set()
                assert (await anext(events)).payload == "y" * SIZE

    asyncio.run(main())
    assert len(threads) == 4
    assert threading.get_ident() not in threads


def test_an_event_loop_has_its_turn_between_replies() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        bridge, done_at_turn = Bridge(loop), []
        calls = [AwaitedCall(str(n), "q", "f", b"", *CALL) for n in range(10)]
        for call in calls:
            call._bridge = bridge
            call.answer(Reply(Properties(), b"x" * LARGE))
        loop.call_soon(lambda: loop.call_soon(lambda: done_at_turn.append(sum(call.done() for call in calls))))
        await asyncio.gather(*calls)
        assert 0 < done_at_turn[0] < len(calls)

    asyncio.run(main())


def test_what_is_given_up_before_its_turn_is_never_decoded(gate: Gate) -> None:
    body = codec.encode("x" * SIZE, codec.MSGPACK, limit=2 * SIZE)

    async def main() -> None:
        call = AwaitedCall("1", "q", "f", b"", *CALL)
        call._bridge = Bridge(asyncio.get_running_loop())
        call.answer(Reply(Properties(content_type=codec.MSGPACK, type="result"), body))
        await asyncio.to_thread(until, lambda: gate.threads)
        call.cancel()
        gate.opened.set()
        with pytest.raises(asyncio.CancelledError):
            await call
        until(lambda: call._outcome is None or call._outcome.done())  # type: ignore[union-attr]

    asyncio.run(main())
