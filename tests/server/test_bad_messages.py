"""Whatever is sent to a server, it answers or dead-letters it, and serves the next message. Nothing stays unacked."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from amqp_rpc import Client, MessageTooLarge, Server, Service
from amqp_rpc.message.topology import arrivals_queue, dead_letter_queue
from services import fib
from tests.served_by import Raw
from tests.waiting import until

MSGPACK = "application/msgpack"
Serve = Callable[..., Server]


@pytest.fixture
def served(service: Service, serve: Serve) -> Service:
    @service.rpc
    def double(n: int) -> int:
        return 2 * n

    @service.rpc
    def fail(how: str) -> None:
        class Silent(Exception):
            def __str__(self) -> str:
                raise RuntimeError("no text")

        kinds: dict[str, Callable[[], BaseException]] = {
            "SystemExit": lambda: SystemExit(3),
            "KeyboardInterrupt": KeyboardInterrupt,
            "GeneratorExit": GeneratorExit,
            "StopIteration": StopIteration,
            "RecursionError": RecursionError,
            "MemoryError": MemoryError,
            "Silent": Silent,
        }
        error = kinds[how]()
        raise error

    serve(service, max_message_size=100_000)
    return service


def everything_is_settled(raw: Raw, served: Service) -> bool:
    """Return whether the queue is empty and its server still replies."""
    properties, body = raw.ask(served.queue, b"[[21],{}]", content_type="application/json", type="double")
    assert (properties.type, json.loads(body)) == ("result", 42)
    return until(lambda: raw.count(served.queue) == 0)


def nested(depth: int) -> bytes:
    return b"\x91" * depth + b"\x01"


#: Thousands of UUIDs whose hashes are one.
COLLIDING = msgpack.packb([msgpack.ExtType(5, (k * (2**61 - 1)).to_bytes(16, "big")) for k in range(5000)])
BAD_BODIES = {
    "no msgpack": (MSGPACK, b"\xc1\xc1"),
    "empty": (MSGPACK, b""),
    "cut off": (MSGPACK, b"\x92\x91\x1e"),
    "trailing bytes": (MSGPACK, msgpack.packb([[30], {}]) + b"\0"),
    "nested 90 000 deep": (MSGPACK, nested(90_000)),
    "a billion elements": (MSGPACK, b"\xdd" + struct.pack(">L", 10**9)),
    "a billion elements, many times": (MSGPACK, (b"\xdd" + struct.pack(">L", 10**9)) * 400),
    "an extension of nobody's": (MSGPACK, msgpack.packb([[msgpack.ExtType(99, b"x")], {}])),
    "colliding hashes": (MSGPACK, msgpack.packb([[msgpack.ExtType(6, COLLIDING)], {}])),
    "empty lists that fill the memory": (
        MSGPACK,
        b"\x92\x91\xdd" + struct.pack(">L", 95_000) + b"\x90" * 95_000 + b"\x80",
    ),
    "no JSON": ("application/json", b"{nonsense"),
    "JSON nested deep": ("application/json", b"[" * 50_000),
    "JSON with too many digits": ("application/json", b"[[" + b"9" * 50_000 + b"],{}]"),
    "text that is no UTF-8": ("text/plain", b"\xff\xfe"),
    "another content type": ("application/xml", b"<n>30</n>"),
}


@pytest.mark.parametrize("bad", BAD_BODIES)
def test_a_body_that_cant_be_read_is_answered(raw: Raw, served: Service, bad: str) -> None:
    content_type, body = BAD_BODIES[bad]
    properties, answer = raw.ask(served.queue, body, content_type=content_type, type="double")
    assert properties.type == "error"
    assert b"Undecodable" in answer
    assert everything_is_settled(raw, served)


@pytest.mark.parametrize("bad", BAD_BODIES)
def test_a_body_that_cant_be_read_and_has_no_address_is_dead_lettered(raw: Raw, served: Service, bad: str) -> None:
    content_type, body = BAD_BODIES[bad]
    raw.channel.queue_declare(dead_letter_queue(served.queue), durable=True)
    raw.send(served.queue, body, content_type=content_type, type="double", message_id="m1", headers={"mine": 1})
    properties, kept = raw.get(dead_letter_queue(served.queue))
    assert kept == body
    assert (properties.content_type, properties.type, properties.message_id) == (content_type, "double", "m1")
    assert properties.delivery_mode == 2
    assert properties.headers["queue"] == served.queue
    assert properties.headers["mine"] == 1
    assert content_type in properties.headers["reason"]
    assert everything_is_settled(raw, served)


WRONG_CALLS = {
    "an unknown function": ("nope", [[1], {}], "FunctionNotFound", "there are: double, fail"),
    "no function named, and no default": (None, [[1], {}], "FunctionNotFound", "names no function"),
    "a missing argument": ("double", [[], {}], "InvalidArguments", "no 'n'"),
    "an extra argument": ("double", [[1, 2], {}], "InvalidArguments", "takes 1 argument"),
    "an unknown name": ("double", [[], {"m": 1}], "InvalidArguments", "no parameter 'm'"),
    "an argument twice": ("double", [[1], {"n": 1}], "InvalidArguments", "twice"),
    "another type": ("double", [["1"], {}], "InvalidArguments", "expected int, got str"),
    "not two parts": ("double", [1], "InvalidArguments", "[positional, named]"),
    "parts the wrong way round": ("double", [{}, []], "InvalidArguments", "[positional, named]"),
    "no list at all": ("double", 30, "InvalidArguments", "[positional, named]"),
}


@pytest.mark.parametrize("wrong", WRONG_CALLS)
@pytest.mark.parametrize("content_type", [MSGPACK, "application/json"])
def test_a_wrong_call_is_answered_with_what_is_wrong(raw: Raw, served: Service, wrong: str, content_type: str) -> None:
    function, body, kind, message = WRONG_CALLS[wrong]
    encoded = msgpack.packb(body) if content_type == MSGPACK else json.dumps(body).encode()
    properties, answer = raw.ask(served.queue, encoded, content_type=content_type, type=function)
    error = msgpack.unpackb(answer) if content_type == MSGPACK else json.loads(answer)
    assert (properties.type, properties.content_type) == ("error", content_type)
    assert error["type"] == kind
    assert message in error["message"]
    assert everything_is_settled(raw, served)


def test_a_body_above_the_limit_is_answered(raw: Raw, served: Service) -> None:
    body = msgpack.packb([["x" * 100_000], {}])
    _, answer = raw.ask(served.queue, body, content_type=MSGPACK, type="double")
    assert msgpack.unpackb(answer)["type"] == "MessageTooLarge"
    assert everything_is_settled(raw, served)


def test_a_body_above_the_clients_limit_is_not_sent(client: Client) -> None:
    with pytest.raises(MessageTooLarge, match="16777216"):
        client.call("double", b"x" * (16 * 1024 * 1024))


def test_a_body_of_nearly_the_limit_goes_and_comes(client: Client, serve: Serve, service: Service) -> None:
    @service.rpc
    def echo(data: bytes) -> bytes:
        return data

    serve(service)
    data = b"x" * (16 * 1024 * 1024 - 100)
    assert client.call(echo, data) == data


def test_a_result_above_the_limit_is_said_to_the_caller(client: Client, serve: Serve, service: Service) -> None:
    @service.rpc
    def large(n: int) -> bytes:
        return b"x" * n

    serve(service, max_message_size=1000)
    with pytest.raises(MessageTooLarge, match="ran, and its result was not sent") as caught:
        client.call(large, 1000)
    assert caught.value.may_have_run
    assert client.call(large, 10) == b"x" * 10


RAISED = [
    "SystemExit",
    "KeyboardInterrupt",
    "GeneratorExit",
    "StopIteration",
    "RecursionError",
    "MemoryError",
    "Silent",
]


@pytest.mark.parametrize("how", RAISED)
def test_whatever_a_handler_raises_is_answered_and_the_server_lives(raw: Raw, served: Service, how: str) -> None:
    properties, answer = raw.ask(
        served.queue, json.dumps([[how], {}]).encode(), content_type="application/json", type="fail"
    )
    assert properties.type == "error"
    assert how in json.loads(answer)["type"]
    assert everything_is_settled(raw, served)


def test_a_request_without_reply_to_is_run_and_its_result_dropped(raw: Raw, serve: Serve, service: Service) -> None:
    ran = []

    @service.rpc
    def note(n: int) -> object:
        ran.append(n)
        if n == 2:
            raise ValueError(n)
        return object() if n == 3 else n

    serve(service)
    for n in (1, 2, 3):
        raw.send(service.queue, json.dumps([[n], {}]).encode(), content_type="application/json")
    until(lambda: len(ran) == 3)
    until(lambda: raw.count(service.queue) == 0)
    assert sorted(ran) == [1, 2, 3]


def test_a_reply_to_that_does_not_exist_is_counted_and_the_next_call_is_served(
    raw: Raw, serve: Serve, service: Service
) -> None:
    @service.rpc
    def double(n: int) -> int:
        return 2 * n

    server = serve(service)
    raw.send(service.queue, b"21", reply_to="nobody.has.this.queue", correlation_id="1")
    until(lambda: server.counters["returned"] == 1)
    assert raw.ask(service.queue, b"21")[1] == b"42"


def test_a_reply_to_a_queue_of_the_server_s_own_is_one_dead_letter_and_no_loop(
    raw: Raw, serve: Serve, service: Service
) -> None:
    tasks = f"{service.name}.tasks"

    @service.rpc
    def double(n: int) -> int:
        return 2 * n

    @service.task(queue=tasks, retries=1)
    def work(n: int) -> None:
        raise ValueError(n)

    for queue in (service.queue, tasks):
        raw.channel.queue_declare(dead_letter_queue(queue), durable=True)
    serve(service)
    call = {"type": "double", "content_type": "application/json", "correlation_id": "c"}
    for address, dead in (
        (service.queue, dead_letter_queue(service.queue)),
        (dead_letter_queue(service.queue), dead_letter_queue(service.queue)),
        (tasks, dead_letter_queue(tasks)),
        (arrivals_queue(tasks), dead_letter_queue(tasks)),
        (dead_letter_queue(tasks), dead_letter_queue(tasks)),
    ):
        raw.send(service.queue, b"[[21],{}]", reply_to=address, **call)
        assert raw.get(dead)[1] == b"42"
        # What would go round would be there before this one.
        assert raw.ask(service.queue, b"[[21],{}]", **call)[1] == b"42"
        assert (raw.count(address), raw.count(dead)) == (0, 0)
    for queue in (tasks, dead_letter_queue(tasks), arrivals_queue(tasks)):
        raw.channel.queue_delete(queue)


@pytest.mark.parametrize("correlation_id", [None, "", "x" * 255, "ä" * 127])
def test_a_correlation_id_comes_back_as_it_was(raw: Raw, served: Service, correlation_id: str | None) -> None:
    properties, body = raw.ask(
        served.queue, b"[[21],{}]", content_type="application/json", type="double", correlation_id=correlation_id
    )
    assert json.loads(body) == 42
    assert (properties.correlation_id or None) == (correlation_id or None)


ODD_PROPERTIES: dict[str, dict[str, Any]] = {
    "a deadline that is no number": {"headers": {"deadline": "soon", "attempt": [1], "idempotent": "yes"}},
    "a nested table": {"headers": {"deadline": {"a": [{"b": None}]}, "chunk": 1}},
    "an unknown encoding": {"content_encoding": "gzip"},
    "a chunk that is none": {"headers": {"chunk": True}},
    "a type of 255 bytes": {"type": "f" * 255},
}


@pytest.mark.parametrize("odd", ODD_PROPERTIES)
def test_odd_properties_do_not_stop_the_server(raw: Raw, served: Service, odd: str) -> None:
    properties = {"type": "double", "content_type": "application/json", **ODD_PROPERTIES[odd]}
    reply, _ = raw.ask(served.queue, b"[[21],{}]", **properties)
    assert reply.type in {"result", "results", "error"}
    assert everything_is_settled(raw, served)


@pytest.mark.parametrize("field", ["reply_to", "correlation_id", "type", "message_id", "content_type"])
def test_a_property_that_is_no_text_stops_nothing(raw: Raw, served: Service, field: str) -> None:
    for _ in range(20):
        properties = {"reply_to": raw.reply_queue, "headers": {"alive": True}, field: b"\xff no text"}
        raw.send(served.queue, b"[[21],{}]", **{"content_type": "application/json", "type": "double", **properties})

    def answered() -> bool:
        raw.connection.process_data_events(0.01)
        return len(raw.replies) == (0 if field == "reply_to" else 20)

    until(answered, what="the answers")
    assert everything_is_settled(raw, served)


def test_a_dead_letter_queue_that_takes_no_more_stops_nothing(raw: Raw, served: Service) -> None:
    arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
    raw.channel.queue_declare(dead_letter_queue(served.queue), durable=True, arguments=arguments)
    # More than there are threads: each would take a place for good.
    for _ in range(20):
        raw.send(served.queue, b"no call", content_type="application/json", type="double")
    assert everything_is_settled(raw, served)
    raw.channel.queue_delete(dead_letter_queue(served.queue))


def test_a_call_that_lost_a_header_is_answered_and_does_not_run(
    raw: Raw, serve: Serve, service: Service, unreadable: object, caplog: pytest.LogCaptureFixture
) -> None:
    ran = []

    @service.rpc
    def write(text: str) -> None:
        ran.append(text)

    serve(service)
    dead = dead_letter_queue(service.queue)
    raw.channel.queue_declare(dead, durable=True)
    headers = {"a": 1, "when": unreadable, "z": 2}
    # It names another function: without its type it would be for the only one there is.
    for kind in "write", "delete":
        properties, answer = raw.ask(service.queue, b"rm -rf /", content_type="text/plain", type=kind, headers=headers)
        assert properties.type == "error"
        assert b"Undecodable: its properties can't be read: header 'when'" in answer
    raw.send(service.queue, b"rm -rf /", type="delete", message_id="m1", headers=headers)
    properties, body = raw.get(dead)
    assert (body, properties.type, properties.message_id) == (b"rm -rf /", "delete", "m1")
    assert (properties.headers["a"], properties.headers["z"]) == (1, 2)
    assert "header 'when'" in properties.headers["reason"]
    assert raw.ask(service.queue, b"good")[0].type == "result"
    assert ran == ["good"]
    assert until(lambda: raw.count(service.queue) == 0)
    # Of three such messages.
    assert len([each for each in caplog.messages if "a header can't be read" in each]) == 1


def test_a_call_too_deep_to_encode_is_not_sent(client: Client) -> None:
    value: list[Any] = []
    for _ in range(sys.getrecursionlimit() * 5):
        value = [value]
    with pytest.raises(ValueError, match="cannot send"):
        client.call("double", value)


def test_headers_with_odd_names_are_dead_lettered_and_settled(raw: Raw, serve: Serve, service: Service) -> None:
    @service.rpc
    def double(n: int) -> int:
        return 2 * n

    serve(service, threads=2)
    raw.channel.queue_declare(dead_letter_queue(service.queue), durable=True)
    for _ in range(3):
        raw.send(service.queue, b"x", headers={b"\xff\xfe": "v"})
    for _ in range(3):
        assert raw.get(dead_letter_queue(service.queue))[1] == b"x"
    assert raw.ask(service.queue, b"21")[1] == b"42"


@pytest.mark.parametrize(
    "headers", [{f"h{n:03}": "x" * 1000 for n in range(126)}, {"h": "x" * 130_700}], ids=["many", "all but a frame"]
)
def test_a_call_with_headers_that_leave_no_room_is_a_dead_letter_all_the_same(
    raw: Raw, served: Service, headers: dict[str, str]
) -> None:
    raw.channel.queue_declare(dead_letter_queue(served.queue), durable=True)
    raw.send(served.queue, b"[[1],{}]", content_type="application/json", type="nope", message_id="m1", headers=headers)
    properties, body = raw.get(dead_letter_queue(served.queue))
    assert (properties.message_id, body) == ("m1", b"[[1],{}]")
    assert properties.headers["reason"].startswith("no function 'nope' here")
    assert everything_is_settled(raw, served)


def test_a_dead_letter_queue_with_other_arguments_is_used_as_it_is(raw: Raw, serve: Serve, service: Service) -> None:
    @service.rpc
    def double(n: int) -> int:
        return 2 * n

    serve(service, threads=2)
    raw.channel.queue_declare(dead_letter_queue(service.queue), durable=True, arguments={"x-max-length": 100})
    for _ in range(5):
        raw.send(service.queue, b"x")
    for _ in range(5):
        assert raw.get(dead_letter_queue(service.queue))[1] == b"x"
    assert raw.ask(service.queue, b"21")[1] == b"42"


def test_a_forged_direct_reply_name_costs_nobody_else_a_reply(url: str, raw: Raw, serve: Serve) -> None:
    serve(fib.service)
    with Client(url, timeout=20) as client:
        futures = []
        for number in range(500):
            if number % 100 == 50:
                raw.send(fib.service.queue, b"3", reply_to="amq.rabbitmq.reply-to.g1h2AA.AAAA")
            futures.append(client.submit("fib", 10))
        assert [future.result() for future in futures] == [55] * 500


def test_forged_direct_reply_names_cost_no_other_direct_caller_a_reply(
    raw: Raw, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    forged = ("", "garbage", "g1h2AAAA", "g2dkAA9yYWJiaXRAbG9jYWxob3N0AAAB9QAAAAAB.xx==", "AAAA.AAAA", "a.b.c", "ä.ö")
    server = serve(fib.service)
    replies: list[bytes] = []
    raw.channel.basic_consume(
        "amq.rabbitmq.reply-to", lambda _channel, _method, _properties, body: replies.append(body), auto_ack=True
    )
    for number in range(140):
        raw.send(fib.service.queue, b"3", reply_to=f"amq.rabbitmq.reply-to.{forged[number % len(forged)]}")
        raw.send(fib.service.queue, b"10", reply_to="amq.rabbitmq.reply-to")

    def heard() -> bool:
        raw.connection.process_data_events(0.05)
        return len(replies) == 140

    until(heard)
    assert replies == [b"55"] * 140
    until(lambda: not server._state.unacked)
    # 3.10 returns mandatory ones that it has delivered; and 4.3 drops those of forged names itself.
    assert server.counters["returned"] in (0, 140)
    assert "lost" not in caplog.text
