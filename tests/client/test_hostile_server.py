"""Whatever a server sends, calls end by their deadlines.

Some of these bodies would take a client 40 s if the work for them had no bound: `LATEST` tells the two apart on any
machine. `test_large_replies` holds the order of things.
"""

from __future__ import annotations

import asyncio
import secrets
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pika
import pytest

from amqp_rpc import AsyncClient, CallTimeout, Client, NotSent, Undecodable, Unroutable
from amqp_rpc.message import codec

P = 2**61 - 1
COLLIDING = msgpack.packb([msgpack.ExtType(1, (k * P).to_bytes(12, "big")) for k in range(2**20, 2**20 + 40_000)])
#: A set of 40 000 integers with one hash: 600 KiB, for which a process stood still for 40 s.
SET = b"\xc9" + struct.pack(">Ib", len(COLLIDING), 6) + COLLIDING
LISTS = b"\xdd" + struct.pack(">I", 2**22) + b"\x90" * 2**22
JSON_LISTS = b"[" + b"[]," * 2**20 + b"[]]"

TIMEOUT, LATEST = 0.5, 10.0


@pytest.fixture
def hostile(url: str) -> Iterator[Callable[..., str]]:
    """Return a function that serves a queue, where each call is answered with these messages."""
    ended = threading.Event()
    threads = []

    def serve(*messages: tuple[bytes, dict[str, Any]]) -> str:
        connection = pika.BlockingConnection(pika.URLParameters(url))
        channel = connection.channel()
        queue = f"hostile.{secrets.token_hex(6)}"
        channel.queue_declare(queue, auto_delete=True)

        def answer(_channel: Any, _method: Any, request: Any, _body: bytes) -> None:
            for body, properties in messages:
                mine = {"correlation_id": request.correlation_id} if properties.get("type") != "alive" else {}
                channel.basic_publish("", request.reply_to, body, pika.BasicProperties(**{**mine, **properties}))

        def run() -> None:
            while not ended.is_set():
                connection.process_data_events(0.05)
            connection.close()

        channel.basic_consume(queue, answer, auto_ack=True)
        threads.append(threading.Thread(target=run))
        threads[-1].start()
        return queue

    yield serve
    ended.set()
    for thread in threads:
        thread.join(10)


MSGPACK, JSON = "application/msgpack", "application/json"
#: Messages that are for no call, and those that end one.
SILENT = {
    "forged reports": [(SET, {"type": "alive"}), (LISTS, {"type": "alive"}), (b"\x91" * 90_000, {"type": "alive"})],
    "replies to nobody": [(LISTS, {"correlation_id": f"nobody-{n}"}) for n in range(5)],
    "forged receipts": [
        (body, {"type": "done", "content_type": MSGPACK, "correlation_id": ""}) for body in (SET, LISTS)
    ],
}
REPLIES = {
    "a set": (SET, {"type": "result", "content_type": MSGPACK}),
    "lists in JSON": (JSON_LISTS, {"type": "result", "content_type": JSON}),
}


@pytest.mark.parametrize("messages", SILENT.values(), ids=SILENT)
def test_a_call_that_gets_no_reply_ends_at_its_deadline_and_nothing_else_is_decoded(
    url, hostile, messages, monkeypatch
) -> None:
    queue, decoded = hostile(*messages), []
    monkeypatch.setattr(codec, "decode", lambda body, *_, **__: decoded.append(body))
    with Client(url) as client:
        with pytest.raises(Unroutable):
            client.call("f", queue="nobody")
        for send in (
            lambda: client.call("f", queue=queue, timeout=TIMEOUT),
            lambda: client.submit("f", queue=queue, timeout=TIMEOUT).result(),
        ):
            began = time.monotonic()
            # On a busy machine the broker may not even have said in time that there is a server.
            with pytest.raises((CallTimeout, NotSent)):
                send()
            assert time.monotonic() - began < LATEST
    assert not decoded


@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES)
def test_a_call_with_a_hostile_reply_and_one_beside_it_end_at_their_deadlines(url, hostile, reply) -> None:
    replied, silent = hostile(reply), hostile()

    async def aio() -> list[Any]:
        async with AsyncClient(url) as client:
            with pytest.raises(Unroutable):
                await client.call("f", queue="nobody")
            began = time.monotonic()

            async def beside() -> float:
                with pytest.raises((CallTimeout, NotSent)):
                    await client.call("f", queue=silent, timeout=TIMEOUT)
                return time.monotonic() - began

            return await asyncio.gather(
                beside(), client.call("f", queue=replied, timeout=TIMEOUT), return_exceptions=True
            )

    took, outcome = asyncio.run(aio())
    assert took < LATEST
    assert isinstance(outcome, Undecodable | list | CallTimeout | NotSent)
    with Client(url) as client:
        with pytest.raises(Unroutable):
            client.call("f", queue="nobody")
        began = time.monotonic()
        beside = client.submit("f", queue=silent, timeout=TIMEOUT)
        answered = client.submit("f", queue=replied, timeout=TIMEOUT)
        with pytest.raises((CallTimeout, NotSent)):
            beside.result()
        assert answered.exception() is None or isinstance(answered.exception(), Undecodable | CallTimeout | NotSent)
        assert time.monotonic() - began < LATEST
