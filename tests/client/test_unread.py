"""A reply that the client can't read came after the function ran: its error says so, names the function, and why."""

from __future__ import annotations

import asyncio
import enum
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest

from amqp_rpc import (
    AmqpRpcError,
    AsyncClient,
    Client,
    Expired,
    InvalidArguments,
    MessageTooLarge,
    RemoteError,
    Service,
    Undecodable,
)
from amqp_rpc.client.reply import Decoder, Reply
from amqp_rpc.message import codec
from amqp_rpc.message.codec import JSON, MSGPACK, TEXT
from amqp_rpc.message.envelope import ERROR, RESULT, RESULTS, Properties
from amqp_rpc.message.failures import describe_verdict
from amqp_rpc.service.function import Function, registered

LIMIT = 1000


@dataclass
class Positive:
    number: int

    def __post_init__(self) -> None:
        if self.number < 0:
            raise RuntimeError("negative")


def known(hint: Any) -> Function:
    """A registered function with this type of results."""

    def charge() -> Any: ...

    charge.__annotations__["return"] = hint
    return registered(Service("replies").rpc(charge))


def reply(value: Any, kind: Any = RESULT, content_type: Any = MSGPACK) -> Reply:
    return Reply(Properties(content_type=content_type, type=kind), codec.encode(value, MSGPACK, limit=10**7))


def broken(kind: str) -> Reply:
    return Reply(Properties(content_type=JSON, type=kind), b"{")


def unread(decoder: Decoder, unreadable: Reply) -> AmqpRpcError:
    with pytest.raises(AmqpRpcError) as raised:
        decoder.read(unreadable, "charge")
    return raised.value


BAD: dict[str, tuple[Reply, type[AmqpRpcError], str]] = {
    "larger than the client's limit": (
        reply("x" * LIMIT), MessageTooLarge, "it has 1003 bytes, and this client's limit is 1000"
    ),
    "of an unknown type": (reply(1, "stream"), Undecodable, "a reply of type 'stream' is not known here"),
    "of an unknown content type": (reply(1, content_type="image/png"), Undecodable, "image/png"),
    "of a content type that is no text": (reply(1, content_type=b"\xff"), Undecodable, "can't read the reply"),
    "of broken bytes": (broken(RESULT), Undecodable, "is not application"),
    "an error of broken bytes": (broken(ERROR), Undecodable, "is not application"),
    "that differs from its annotation": (reply("many"), Undecodable, "returned something else than its annotation"),
    "that its annotation's own code refuses": (reply({"number": -1}), Undecodable, "RuntimeError('negative')"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("many", [False, True], ids=["call", "map"])
def test_a_call_whose_reply_can_t_be_read_may_have_run(what: str, many: bool) -> None:
    unreadable, kind, why = BAD[what]
    decoder = Decoder(known(Positive if "own code" in what else int), LIMIT, many=many)
    if (many and kind is not Undecodable) or "broken" in what or "content type" in what:
        # The one error stands for all calls of the message.
        error = decoder.read(unreadable, "charge")[0] if many else unread(decoder, unreadable)
    else:
        error = unread(decoder, unreadable)
    assert (type(error), error.may_have_run) == (kind, True)
    assert str(error).startswith("charge() ")
    assert why in str(error)


def test_an_item_of_a_chunk_that_can_t_be_read_fails_alone() -> None:
    chunk = reply([[True, 1], [True, "many"], [False, {"type": "ValueError", "message": "bad"}], [True, 4]], RESULTS)
    one, two, three, four = Decoder(known(int), LIMIT, many=True).read(chunk, "charge")
    assert (one, four) == (1, 4)
    assert (type(two), two.may_have_run, isinstance(three, ValueError)) == (Undecodable, True, True)


@pytest.mark.parametrize("content_type", [MSGPACK, JSON, TEXT])
def test_an_error_above_the_limit_keeps_its_type_and_the_beginning_of_its_text(content_type: str) -> None:
    described = {"type": "ValueError", "message": "bad " * LIMIT, "data": {"args": ["bad " * LIMIT]}}
    body: Any = described if content_type != TEXT else f"ValueError: {described['message']}"
    large = Reply(Properties(content_type=content_type, type=ERROR), codec.encode(body, content_type, limit=10**7))
    error = unread(Decoder(None, LIMIT), large)
    assert isinstance(error, RemoteError)
    assert isinstance(error, ValueError)
    assert error.may_have_run
    assert error.type == "ValueError"
    assert "bad bad" in str(error)
    assert "this client's limit is 1000" in str(error)
    assert len(str(error)) < 400


def test_a_refusal_of_a_later_attempt_says_nothing_of_the_first() -> None:
    refused = reply(describe_verdict(InvalidArguments("charge() got no 'n'")), ERROR)
    assert not unread(Decoder(None, LIMIT), refused).may_have_run
    with pytest.raises(InvalidArguments) as raised:
        Decoder(None, LIMIT).read(refused, "charge", attempt=2)
    assert raised.value.may_have_run
    server_knows = reply(describe_verdict(Expired("its time was over"), earlier=True), ERROR)
    assert unread(Decoder(None, LIMIT), server_knows).may_have_run


class Colour(enum.Enum):
    RED = 1


@pytest.mark.parametrize(
    "hint", [int, None, list[int], str | None, dict[str, list[int]], Literal["a"], tuple[int, ...], Any]
)
def test_a_small_result_of_pythons_own_types_is_decoded_on_the_thread_that_reads_it(hint: Any) -> None:
    assert Decoder(known(hint), LIMIT).is_brief(reply(None))
    assert Decoder(None, LIMIT).is_brief(reply(None))


@pytest.mark.parametrize("hint", [Positive, list[Positive], Positive | None, Colour, Annotated[int, 5], "Unknown"])
def test_a_type_of_a_user_s_is_not(hint: Any) -> None:
    assert not Decoder(known(hint), LIMIT).is_brief(reply(None))


def test_a_large_result_and_an_error_are_not() -> None:
    assert not Decoder(None, LIMIT).is_brief(reply("x" * 100_000))
    assert not Decoder(None, LIMIT).is_brief(reply({"type": "ValueError"}, ERROR))


@pytest.fixture
def ran() -> list[int]:
    return []


@pytest.fixture
def charged(serve: Any, service: Service, ran: list[int]) -> Service:
    """A service whose functions note that they ran, and return what a client can't read."""

    @service.rpc
    def large(n: int) -> str:
        ran.append(n)
        return "x" * 2 * LIMIT

    @service.rpc
    def other(n: int) -> int:
        ran.append(n)
        return "many"  # type: ignore[return-value] # on purpose

    @service.task(queue=f"{service.name}.tasks")
    def task(n: int) -> str:
        ran.append(n)
        return "x" * 2 * LIMIT

    serve(service)
    return service


def ways(client: Client, function: Any) -> dict[str, Any]:
    return {
        "call": lambda: client.call(function, 1),
        "submit": lambda: client.submit(function, 1).result(),
        "map": lambda: list(client.map(function, [1])),
        "chunks": lambda: list(client.map(function, [1], chunksize=2)),
    }


@pytest.mark.parametrize("name", ["large", "other"])
@pytest.mark.parametrize("way", ["call", "submit", "map", "chunks"])
def test_whatever_way_it_was_called(url: str, charged: Service, ran: list[int], name: str, way: str) -> None:
    function = charged.functions[name].call
    with Client(url, timeout=20, max_message_size=LIMIT) as client, pytest.raises(AmqpRpcError, match=name) as raised:
        ways(client, function)[way]()
    assert ran == [1]
    assert raised.value.may_have_run


def test_the_asyncio_client_says_so_as_well(url: str, charged: Service, ran: list[int]) -> None:
    async def call() -> None:
        async with AsyncClient(url, timeout=20, max_message_size=LIMIT) as client:
            await client.call(charged.functions["large"].call, 1)

    with pytest.raises(MessageTooLarge, match=r"large\(\) .* this client's limit is 1000") as raised:
        asyncio.run(call())
    assert (ran, raised.value.may_have_run) == ([1], True)


def test_a_task_s_result_that_the_client_can_t_read_is_of_a_task_that_ran(
    url: str, charged: Service, ran: list[int]
) -> None:
    with Client(url, timeout=20, max_message_size=LIMIT) as client:
        handle = client.enqueue(charged.tasks[0].call, 1)
        with pytest.raises(MessageTooLarge, match=r"task\(\) .* this client's limit is 1000") as raised:
            handle.result(timeout=20)
    assert (ran, raised.value.may_have_run) == ([1], True)
