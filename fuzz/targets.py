"""What reads strangers' bytes, each with the errors that it may raise; any other exception is a defect.

A target takes a `Draw` and reads one input. It asserts what must hold besides: an answer can be published, what was
decoded can be encoded, frames read the same however they are cut.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import traceback
import typing
from collections.abc import Callable, Coroutine
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from time import time
from typing import Any, cast
from uuid import UUID

import pika.exceptions
import pika.frame

from amqp_rpc import Event, Service
from amqp_rpc.amqp.frames import MessageWriter, read_properties
from amqp_rpc.amqp.stream import Stream
from amqp_rpc.cli.options import arguments_in, arguments_of, value_of
from amqp_rpc.client.reply import Decoder, Reply
from amqp_rpc.errors import AmqpRpcError
from amqp_rpc.message import codec, dead_letter, events
from amqp_rpc.message.codec import JSON, MSGPACK, TEXT
from amqp_rpc.message.envelope import Properties
from amqp_rpc.message.settings import Address
from amqp_rpc.results.record import Record
from amqp_rpc.server.calls import CallDispatcher
from amqp_rpc.server.consumers import _read as read_bindings
from amqp_rpc.server.invoke import Answer, HandlerOutcome, Settings, invoke
from amqp_rpc.server.scheduler import Timetable
from amqp_rpc.server.tasks import EventDispatcher, TaskDispatcher
from fuzz import inputs
from fuzz.draw import Draw

#: Bytes of a body at most.
LIMIT = 1 << 20

service = Service("fuzz")


class Colour(Enum):
    """A hint."""

    RED = "red"
    BLUE = "2"


@dataclasses.dataclass
class Order:
    """A hint."""

    id: int
    what: str = "x"
    when: datetime | None = None
    parts: list[Order] | None = None


class Table(typing.TypedDict):
    """A hint."""

    a: int
    b: typing.NotRequired[str]


HINTS: dict[str, Any] = {
    "integer": int, "number": float, "text": str, "octets": bytes, "flag": bool, "decimal": Decimal, "date": date,
    "moment": datetime, "span": timedelta, "identity": UUID, "integers": set[int], "numbers": list[float],
    "names": frozenset[str], "table": Table, "order": Order, "colour": Colour, "pair": tuple[int, str],
    "maybe": int | None, "either": int | str, "anything": Any,
}  # fmt: skip


def _register() -> None:
    for name, hint in HINTS.items():

        def call(x: Any) -> Any:
            return x

        def task(x: Any, *rest: Any, **more: Any) -> Any:
            return x, rest, more

        call.__name__ = task.__name__ = name
        call.__annotations__ |= {"x": hint, "return": hint}
        task.__annotations__ |= {"x": hint}
        service.rpc(call)
        service.task(queue="fuzz_tasks")(task)


_register()


@service.rpc(idempotent=True)
def twice(x: int) -> int:
    """Return twice a number; it may run again."""
    return 2 * x


@service.rpc
async def coroutine(x: int) -> int:
    """Return a number, from a coroutine."""
    return x


@service.subscribe("a.#")
def received(payload: Order | int | str, event: Event) -> None:
    """Take an event."""
    repr((payload, event))


_SETTINGS = Settings(LIMIT, records=True)
CALLS = CallDispatcher("rpc_queue", dict(service.functions), _SETTINGS)
TASKS = TaskDispatcher("fuzz_tasks", {each.name: each for each in service.tasks}, _SETTINGS)
EVENTS = EventDispatcher(service.subscriptions[0], _SETTINGS)
_WRITER = MessageWriter(1, 131_072)
_LOOP = asyncio.new_event_loop()


def decode(draw: Draw) -> None:
    """Decode a body; what was decoded can be shown, and encoded again or refused in words."""
    kind = draw.one((MSGPACK, MSGPACK, JSON, TEXT))
    try:
        value = codec.decode(inputs.body(draw), kind, limit=LIMIT)
        repr(value)
        codec.encode(value, kind, limit=LIMIT)
    except AmqpRpcError as error:
        str(error)


def call(draw: Draw) -> None:
    """Answer a call, or a chunk of calls."""
    answer = CALLS.run(inputs.properties(draw), inputs.body(draw), redelivered=draw.chance(20))
    _check(_LOOP.run_until_complete(answer) if isinstance(answer, Coroutine) else answer)


def task(draw: Draw) -> None:
    """Accept a task, run it, and answer it."""
    _run(TASKS, inputs.properties(draw), inputs.body(draw), redelivered=draw.chance(20))


def event(draw: Draw) -> None:
    """Accept an event, run its handler, and answer it."""
    properties = inputs.properties(draw)
    events.mark(properties, draw.one(("amqp_rpc.events", "", "amqp_rpc.delay.03")), "a.b")
    _run(EVENTS, properties, inputs.body(draw), redelivered=draw.chance(20))


def _run(dispatcher: TaskDispatcher, properties: Properties, body: bytes, *, redelivered: bool) -> None:
    accepted = dispatcher.accept(properties, body, redelivered=redelivered)
    if not isinstance(accepted, Answer):
        outcome = invoke(accepted)
        dispatcher.leave(accepted)
        if not isinstance(outcome, HandlerOutcome):
            outcome.drop()
            return
        accepted = dispatcher.answer(accepted, outcome)
    _check(accepted)


def _check(answer: object) -> None:
    """Check that what an answer publishes and records can be written and read."""
    if not isinstance(answer, Answer):
        return
    for message in (answer.reply, answer.again):
        if message is not None:
            try:
                _WRITER.write(message, mandatory=True)
            # What AMQP can't carry is said there, and handled: `Copy.unwritable`.
            except (ValueError, OverflowError, pika.exceptions.AMQPError):
                continue
    if answer.record is not None:
        Record.decode(answer.record.encode())


def reply(draw: Draw) -> None:
    """Read a reply, of one call or of a chunk."""
    properties = Properties(
        content_type=draw.one((MSGPACK, JSON, TEXT, None)),
        type=draw.one(("result", "error", "results", "alive", None, "x")),
    )
    found = Reply(properties, inputs.body(draw))
    known = draw.one((None, *service.functions.values()))
    try:
        outcomes = Decoder(known, LIMIT, many=draw.chance(30)).read(found, "f", attempt=1 + draw.number(1))
    except AmqpRpcError as error:
        outcomes = [error]
    for each in outcomes if isinstance(outcomes, list) else ():
        if isinstance(each, BaseException):
            traceback.format_exception(each)
            repr(each)


def letter(draw: Draw) -> None:
    """Read a dead letter, show it, replay it and write it anew."""
    properties, body = inputs.properties(draw), inputs.body(draw)
    repr(dead_letter.read(properties, body, queue="q", whole=draw.chance(50)))
    dead_letter.died(properties)
    try:
        dead_letter.renewed(properties, body, queue="q")
        dead_letter.replayed(properties, body, queue="q", now=time())
    except AmqpRpcError as error:
        str(error)


def record(draw: Draw) -> None:
    """Read a record of a store."""
    try:
        repr(Record.decode(inputs.body(draw)))
    except AmqpRpcError as error:
        str(error)


def token(draw: Draw) -> None:
    """Read the token of schedules."""
    table = Timetable([])
    table.merge(f'{{"dealt":{inputs.written(draw)}}}'.encode())
    table.merge(inputs.body(draw))
    table.due(int(time() * 1000))
    table.body()


def bindings(draw: Draw) -> None:
    """Read the record of a queue's bindings."""
    read_bindings(inputs.written(draw).encode())
    read_bindings(inputs.body(draw))


class _Loop:
    """Stands for a loop that does nothing."""

    def __init__(self) -> None:
        self.ended_with: object = None

    def watch(self, *_: object) -> None: ...

    unwatch = before_sleep = watch

    def post(self, _callback: object, error: object) -> None:
        self.ended_with = error


class _Socket:
    """Stands for a socket."""

    def close(self) -> None: ...


class _Protocol:
    """Stands for pika: notes what is left to it."""

    def __init__(self) -> None:
        self.fed: list[bytes] = []

    def connection_made(self, _transport: object) -> None: ...

    connection_lost = connection_made

    def data_received(self, data: bytes) -> None:
        self.fed.append(data)


def _received(data: bytes, cuts: Draw | None) -> tuple[list[str], bytes | None]:
    """Return what a stream hands to its consumers, and what it leaves to pika; None if it closed itself."""
    loop, protocol, taken = _Loop(), _Protocol(), list[str]()
    stream = Stream(cast(Any, loop), cast(Any, _Socket()), protocol)
    for channel in (1, 2):
        stream.deliveries.enter(channel, "ctag", lambda *each: taken.append(repr(each)))
        stream.deliveries.enter_addressed(channel, "addr", lambda *each: taken.append(repr(each)))
        stream.deliveries.confirm(channel, lambda *each: taken.append(repr(each)))
    while data and not stream._closed:  # noqa: SLF001 - what a loop would see by its socket
        cut = len(data) if cuts is None else 1 + cuts.number(38)
        stream._hand_up(data[:cut])  # noqa: SLF001 - as the socket's watch does
        data = data[cut:]
    return taken, None if stream._closed else b"".join(protocol.fed)  # noqa: SLF001 - as above


def frames(draw: Draw) -> None:
    """Read frames: whole ones read the same however they are cut; of others, nothing but a closed connection."""
    data, clean = inputs.frames(draw)
    whole, cut = _received(data, None), _received(data, draw)
    assert not clean or whole == cut, f"cut, it reads otherwise: {whole} and {cut}"


def properties(draw: Draw) -> None:
    """Read properties as pika does, or leave them to pika."""
    header = inputs.content_header(draw, 1, 0)
    ours = read_properties(header, 21, int.from_bytes(header[19:21], "big"))
    if ours is None:
        return
    # pika refuses what a broker would not send; where both read it, they read the same.
    try:
        _, theirs = pika.frame.decode_frame(header)
    except Exception:
        return
    for name in Properties.__slots__:
        mine, its = getattr(ours, name), getattr(theirs.properties, name)
        # NaN equals nothing.
        assert mine == its or repr(mine) == repr(its), f"{name}: {mine!r}, and pika reads {its!r}"


def words(draw: Draw) -> None:
    """Read the words and lines of JSON of a command line, and URLs."""
    word = draw.one((inputs.written(draw), inputs.written(draw), draw.one(inputs.TEXTS), f"x={inputs.written(draw)}"))
    value = value_of(word)
    try:
        arguments_of((word, "y=1"))
        arguments_in(value)
    except (AmqpRpcError, SystemExit) as error:
        str(error)
    secret = "pa55word"  # noqa: S105 - an example
    shape = draw.one(("amqp://u:{}@h:5672/v", "amqp://u:{}", "amqp://h/?user=u&password={}", "amqps://u:x,{}@h,i"))
    url = f"{shape.format(secret)}{draw.octets(draw.number(20)).decode(errors='replace')}"
    try:
        shown = repr(Address.parse(url))
    except AmqpRpcError as error:
        shown = str(error)
    assert secret not in shown, shown


TARGETS: dict[str, Callable[[Draw], None]] = {
    each.__name__: each
    for each in (decode, call, task, event, reply, letter, record, token, bindings, frames, properties, words)
}


def silence() -> None:
    """Switch the package's log lines off: every input would write some."""
    logging.disable(logging.CRITICAL)
