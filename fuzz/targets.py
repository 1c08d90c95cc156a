"""The readers of strangers' bytes, each with the errors that it may raise; any other exception is a defect.

A target takes a `Draw`, reads one input, and returns whether that got past the first check: a target whose inputs are
nearly all refused at the door tests the door alone. It asserts what must hold besides: an answer can be published, what
was decoded can be encoded, frames read the same however they are cut, a connection that broke has told so once.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import io
import logging
import threading
import traceback
import typing
from collections.abc import Callable, Coroutine, Iterator
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from time import time
from typing import Any, cast
from uuid import UUID

import click
import pika.exceptions
import pika.frame

from amqp_rpc import Event, Reject, Retry, Service
from amqp_rpc.amqp import loop as io_loop
from amqp_rpc.amqp.channel import AddressedDelivery, ChannelClosed, Delivery
from amqp_rpc.amqp.connection import Connection, _Login
from amqp_rpc.amqp.frames import MessageWriter, read_properties
from amqp_rpc.amqp.stream import Stream
from amqp_rpc.cli import main
from amqp_rpc.cli.dlq import _description, _json, _table
from amqp_rpc.cli.exits import Exit
from amqp_rpc.cli.listen import _line
from amqp_rpc.cli.options import _item as line_read
from amqp_rpc.cli.options import arguments_in, arguments_of, value_of
from amqp_rpc.client.reply import Decoder, Reply
from amqp_rpc.errors import AmqpRpcError, BrokerError, Undecodable
from amqp_rpc.message import codec, dead_letter, envelope
from amqp_rpc.message.codec import JSON, MSGPACK, TEXT
from amqp_rpc.message.envelope import Message, Properties, read_names
from amqp_rpc.message.settings import Address, Addresses
from amqp_rpc.message.text import brief
from amqp_rpc.queues import items
from amqp_rpc.results.record import Record
from amqp_rpc.server.calls import CallDispatcher
from amqp_rpc.server.consumers import _read as read_bindings
from amqp_rpc.server.invoke import Answer, HandlerOutcome, Settings, invoke
from amqp_rpc.server.scheduler import Timetable
from amqp_rpc.server.tasks import EventDispatcher, TaskDispatcher
from amqp_rpc.service.schedules import Cron, Every, Schedule
from fuzz import inputs, wire
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


class Odd(ValueError):
    """An error whose text can't be made."""

    def __str__(self) -> str:
        raise RuntimeError


_RAISED: tuple[Callable[[], BaseException], ...] = (
    lambda: ValueError({1}, b"x"), lambda: OSError(2, "no", "a\nb"), Odd, lambda: Retry("later", after=5),
    lambda: Retry("much later", after=10**9), lambda: Reject("no"), lambda: ExceptionGroup("g", [Odd(), KeyError(1)]),
)  # fmt: skip


def _error(number: int) -> BaseException:
    return _RAISED[number % len(_RAISED)]()


@service.task(queue="fuzz_tasks", retries=2)
@service.rpc
def raises(x: int) -> None:
    """Raise an error."""
    raise _error(x)


@service.subscribe("a.#", retries=2)
def received(payload: Order | int | str, event: Event) -> None:
    """Take an event."""
    repr((payload, event))
    if isinstance(payload, int):
        raise _error(payload)


_SETTINGS = Settings(LIMIT, records=True)
CALLS = CallDispatcher("rpc_queue", dict(service.functions), _SETTINGS)
TASKS = TaskDispatcher("fuzz_tasks", {each.name: each for each in service.tasks}, _SETTINGS)
EVENTS = EventDispatcher(service.subscriptions[0], _SETTINGS)
_WRITER = MessageWriter(1, 131_072)
_LOOP = asyncio.new_event_loop()


_SCHEDULES = (
    Schedule("fuzz: every 60 s", "fuzz_tasks", "twice", Every(60_000), b""),
    Schedule("fuzz: cron", "fuzz_tasks", "twice", Cron.parse("*/5 * * * *", "UTC"), b""),
)
#: Every so many of a hundred errors are written with their tracebacks, which cost more than all the rest.
_FORMATTED = 3


def decode(draw: Draw) -> bool:
    """Decode a body; what was decoded can be shown, and encoded again or refused in words."""
    kind = draw.one((MSGPACK, MSGPACK, JSON, TEXT))
    try:
        value = codec.decode(inputs.body(draw), kind, limit=LIMIT)
    except AmqpRpcError as error:
        str(error)
        return False
    brief(value)
    try:
        codec.encode(value, kind, limit=LIMIT)
    except AmqpRpcError as error:
        str(error)
    return True


def call(draw: Draw) -> bool:
    """Answer a call, or a chunk of calls."""
    redelivered = draw.chance(20)
    answer = CALLS.run(*inputs.request(draw, chunks=True), redelivered=redelivered)
    answer = _LOOP.run_until_complete(answer) if isinstance(answer, Coroutine) else answer
    _check(answer)
    return isinstance(answer, Answer) and answer.outcome in {"result", "raised"}


def task(draw: Draw) -> bool:
    """Accept a task, run it, and answer it."""
    redelivered = draw.chance(20)
    return _run(TASKS, *inputs.request(draw), redelivered=redelivered)


def event(draw: Draw) -> bool:
    """Accept an event, run its handler, and answer it."""
    exchange, redelivered = draw.one(("amqp_rpc.events", "", "amqp_rpc.delay.03")), draw.chance(20)
    properties, body = inputs.event(draw)
    envelope.mark(properties, exchange, "a.b")
    return _run(EVENTS, properties, body, redelivered=redelivered)


def _run(dispatcher: TaskDispatcher, properties: Properties, body: bytes, *, redelivered: bool) -> bool:
    accepted = dispatcher.accept(properties, body, redelivered=redelivered)
    if isinstance(accepted, Answer):
        _check(accepted)
        return False
    outcome = invoke(accepted)
    dispatcher.leave(accepted)
    if not isinstance(outcome, HandlerOutcome):
        outcome.drop()
        return True
    _check(dispatcher.answer(accepted, outcome))
    return True


def _check(answer: object) -> None:
    """Check that what an answer publishes and records can be written and read."""
    if not isinstance(answer, Answer):
        return
    for message in (answer.reply, answer.again):
        if message is not None:
            try:
                _WRITER.write(message, mandatory=True)
            # AMQP can't carry it; `Copy.unwritable` handles that.
            except (ValueError, OverflowError, pika.exceptions.AMQPError):
                continue
    if answer.record is not None:
        Record.decode(answer.record.encode())


def reply(draw: Draw) -> bool:
    """Read a reply, of one call or of a chunk."""
    formatted, known = draw.chance(_FORMATTED), draw.one((None, *service.functions.values()))
    properties, body, many = inputs.reply(draw, "" if known is None else known.name)
    try:
        outcomes = Decoder(known, LIMIT, many=many).read(Reply(properties, body), "f", attempt=1 + draw.number(1))
    # An error of the function is raised as the class that it had.
    except Exception as error:
        outcomes = [error]
    for each in outcomes if isinstance(outcomes, list) else ():
        if isinstance(each, BaseException):
            traceback.format_exception(each) if formatted else repr((each, each.__cause__, vars(each)))
    return not (isinstance(outcomes, list) and any(isinstance(each, Undecodable) for each in outcomes))


def letter(draw: Draw) -> bool:
    """Read a dead letter, print it, replay it and write it anew."""
    whole, shown = draw.chance(50), draw.chance(25)
    properties, body = inputs.letter(draw)
    found = dead_letter.read(properties, body, queue="q", whole=whole)
    dead_letter.died(properties)
    for text in (_table([found], "q"), _json(found), _description(found, "q")) if shown else ():
        assert text.replace("\n", "").isprintable(), text
    try:
        dead_letter.renewed(properties, body, queue="q")
        dead_letter.replayed(properties, body, queue="q", now=time())
    except AmqpRpcError as error:
        str(error)
        return False
    return found.died is not None


def printed(draw: Draw) -> bool:
    """Print an event as ``amqp-rpc listen`` does."""
    as_json = draw.chance(50)
    properties, body = inputs.event(draw)
    names = draw.one(("amqp_rpc.events", "", "x\x1b")), draw.one(("a.b", "a\nb", "\u202e"))
    delivery = AddressedDelivery(cast(Any, None), 1, draw.chance(20), properties, body, *names)
    text = _line(delivery, as_json=as_json)
    assert text.isprintable(), text
    return not text.startswith("b'")


def record(draw: Draw) -> bool:
    """Read a record of a store."""
    data = inputs.record(draw) if draw.chance(80) else inputs.body(draw)
    try:
        found = Record.decode(data)
    except AmqpRpcError as error:
        str(error)
        return False
    repr(found)
    assert Record.decode(found.encode()).key == found.key
    return True


def token(draw: Draw) -> bool:
    """Read the tokens of schedules."""
    # To count the missed ticks of a cron expression costs ten times as much as all the rest.
    table = Timetable(_SCHEDULES if draw.chance(5) else _SCHEDULES[:1])
    now = inputs.NOW
    table.merge(inputs.token(draw) if draw.chance(80) else inputs.body(draw), until=now)
    table.merge(inputs.token(draw) if draw.chance(80) else f'{{"dealt":{inputs.written(draw)}}}'.encode())
    for due in table.due(now):
        due.schedule.message(due.tick, now=now / 1000)
        table.done(due)
    table.wait(now)
    return len(table.body()) > len('{"dealt": {}}')


def bindings(draw: Draw) -> bool:
    """Read the record of a queue's bindings."""
    found = read_bindings(inputs.bindings(draw) if draw.chance(80) else inputs.body(draw))
    return found is not None and bool(found[0])


def item(draw: Draw) -> bool:
    """Read an item of a queue between processes, its receipt, and a liveness message."""
    unfinished = items.Unfinished("token")
    own = [unfinished.identity(unfinished.add()) for _ in range(3)]
    properties, body = inputs.event(draw)
    read = True
    try:
        repr(items.value(properties, body, limit=LIMIT))
    except AmqpRpcError as error:
        str(items.dead(properties, body, queue="q", reason=str(error), identity="m"))
        read = False
    items.receipt_to(properties)
    data = inputs.names(draw)
    for identity in [*items.read_receipt(Properties(content_type=MSGPACK), data), draw.one(own)]:
        items.token_of(identity)
        unfinished.received(identity)
    assert len(unfinished) == len(own) - 1
    try:
        read_names(data)
    except Undecodable as error:
        str(error)
        return False
    return read


@contextlib.contextmanager
def _as_io_thread() -> Iterator[None]:
    """Make this thread one where an exception is a peer's fault, and not a signal's."""
    io_loop._io_threads.add(threading.get_ident())  # noqa: SLF001 - as `Loop.run` does
    try:
        yield
    finally:
        io_loop._io_threads.discard(threading.get_ident())  # noqa: SLF001 - as above


class _Timer:
    """Stands for a timer that is never due."""

    def cancel(self) -> None: ...


class _Loop:
    """Stands for a loop: what is posted waits for `drain`, and no time passes."""

    def __init__(self) -> None:
        self._posted: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        self._waiting: list[Callable[[], object]] = []

    def watch(self, *_: object) -> None: ...

    unwatch = off_interrupt = on_interrupt = share = watch

    def before_sleep(self, callback: Callable[[], object]) -> None:
        self._waiting.append(callback)

    def call_later(self, _delay: float, _callback: object) -> _Timer:
        return _Timer()

    def post(self, callback: Callable[..., object], *args: Any) -> None:
        self._posted.append((callback, args))

    def drain(self) -> None:
        while self._posted or self._waiting:
            posted, self._posted = self._posted, []
            for callback, args in posted:
                callback(*args)
            waiting, self._waiting = self._waiting, []
            for each in waiting:
                each()


class _Socket:
    """Stands for a socket that takes all."""

    def send(self, data: bytes) -> int:
        return len(data)

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
    """Return the deliveries of a stream, and the bytes that it leaves to pika; None if it closed itself."""
    loop, protocol, taken = _Loop(), _Protocol(), list[str]()
    stream = Stream(cast(Any, loop), cast(Any, _Socket()), protocol)
    for channel in (1, 2):
        stream.deliveries.enter(channel, "ctag", lambda *each: taken.append(repr(each)))
        stream.deliveries.enter_addressed(channel, "addr", lambda *each: taken.append(repr(each)))
        stream.deliveries.confirm(channel, lambda *each: taken.append(repr(each)))
    # A few cuts, near each other or not: one for each octet costs more than all other targets together.
    left = 0 if cuts is None else 1 + cuts.number(7)
    while data and not stream._closed:  # noqa: SLF001 - what a loop would see by its socket
        cut = len(data) if cuts is None or not left else 1 + cuts.number(min(len(data) - 1, 60))
        left -= 1
        stream._hand_up(data[:cut])  # noqa: SLF001 - as the socket's watch does
        data = data[cut:]
    return taken, None if stream._closed else b"".join(protocol.fed)  # noqa: SLF001 - as above


def frames(draw: Draw) -> bool:
    """Read frames: whole ones read the same however they are cut; of others, nothing but a closed connection."""
    data, clean = wire.frames(draw)
    with _as_io_thread():
        whole, cut = _received(data, None), _received(data, draw)
    assert not clean or whole == cut, f"cut, it reads otherwise: {whole} and {cut}"
    return bool(whole[0])


class _Listener:
    """A client that declares, consumes and publishes, and counts openings, losses and deliveries."""

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.tag: str | None = None
        self.opened = self.lost = self.delivered = 0

    def on_open(self) -> None:
        self.opened += 1
        assert self.connection is not None
        self.connection.run(self._work(self.connection))

    async def _work(self, connection: Connection) -> None:
        try:
            channel = await connection.open_channel()
            await channel.confirms()
            await channel.declare("q")
            channel.on_returned(lambda *_: None)
            consumer = channel.consume("q", self._on_delivery, acknowledge=True, on_cancelled=lambda: None)
            self.tag = consumer.tag
            await channel.confirmed(Message("q", Properties(content_type=TEXT), b"x"), mandatory=True)
        except ChannelClosed as closed:
            str(closed)

    def _on_delivery(self, delivery: Delivery) -> None:
        self.delivered += 1
        delivery.channel.ack([delivery.tag])

    def on_unblocked(self) -> None: ...

    def on_lost(self, error: BrokerError) -> None:
        str(error)
        self.lost += 1


class _Thread:
    """Stands for the I/O thread of a connection."""

    alive = True

    def end(self) -> None:
        self.alive = False


_ADDRESS = Address.parse("amqp://u:p@h/v")


def broker(draw: Draw) -> bool:
    """Talk with a broker one of whose frames is wrong; the connection works on, or says once that it is lost."""
    loop, listener = _Loop(), _Listener()
    thread: Any = _Thread()
    connection = Connection(Addresses([_ADDRESS]), [listener], name="fuzz", heartbeat=60, thread=thread)
    listener.connection, connection._loop = connection, cast(Any, loop)  # noqa: SLF001 - what `start` does
    connection._login = _Login(_ADDRESS)  # noqa: SLF001 - what a dial does
    with _as_io_thread():
        connection._answered(cast(Any, _Socket()), b"")  # noqa: SLF001 - as above
        stream = connection._stream  # noqa: SLF001 - its socket is read here
        assert stream is not None
        loop.drain()
        for each in wire.session(draw, lambda: listener.tag):
            if stream._closed:  # noqa: SLF001 - what a loop would see by its socket
                break
            if data := each():
                stream._hand_up(data)  # noqa: SLF001 - as the socket's watch does
            loop.drain()
        stream.abort(ConnectionResetError())
        loop.drain()
    assert listener.lost == 1, f"the connection was lost, and its listener was told {listener.lost} times"
    assert not connection._scripts, "a script still waits"  # noqa: SLF001 - nothing else shows it
    assert not connection.is_open
    return listener.opened == 1


def properties(draw: Draw) -> bool:
    """Read properties as pika does, or leave them to pika."""
    header = wire.content_header(draw, 1, 0)
    ours = read_properties(header, 21, int.from_bytes(header[19:21], "big"))
    if ours is None:
        return False
    # pika refuses what a broker would not send; where both read it, they read the same.
    try:
        _, theirs = pika.frame.decode_frame(header)
    except Exception:
        return True
    for name in Properties.__slots__:
        mine, its = getattr(ours, name), getattr(theirs.properties, name)
        # NaN equals nothing.
        assert mine == its or repr(mine) == repr(its), f"{name}: {mine!r}, and pika reads {its!r}"
    return True


def words(draw: Draw) -> bool:
    """Read the words and lines of JSON of a command line, and URLs."""
    word = draw.one((inputs.written, inputs.written, _text, _named))(draw)
    value = value_of(word)
    odd = draw.octets(draw.number(3)) if draw.chance(20) else b""
    line = line_read(arguments_in, odd + word.encode(errors="surrogatepass"))
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
    return not isinstance(line, AmqpRpcError)


def _text(draw: Draw) -> str:
    return draw.one(inputs.TEXTS)


def _named(draw: Draw) -> str:
    return f"x={inputs.written(draw)}"


def _commands(group: click.Group, *before: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, each in group.commands.items():
        if isinstance(each, click.Group):
            yield from _commands(each, *before, name)
        else:
            yield (*before, name), each


_COMMANDS = tuple(_commands(main))
_VALUES = ("q", "1", "-1", "0", "1e400", "nan", "2h", "99999999999d", "2026-01-31", "json", "a=b", "--", "--help", "-x")


#: Those that are run as well: each connects, and finds no broker. Port 1 of this machine refuses at once.
_RUN = ("call", "enqueue", "publish", "dlq", "queues")
_REFUSED = "amqp://127.0.0.1:1/"
#: Options that read standard input, or look up the name of a host.
_NOT_RUN = {"--stdin", "--url"}


def command(draw: Draw) -> bool:
    """Parse a command line, of any command; run some of them, where there is no broker."""
    run, (path, chosen) = draw.chance(25), draw.one(_COMMANDS)
    options = [each for each in chosen.params if isinstance(each, click.Option)]
    given: list[str] = []
    for _ in range(draw.number(4)):
        if options and draw.chance(60):
            option = draw.one(options)
            given.append(option.opts[0])
            if option.is_flag:
                continue
        given.append(draw.one((*_VALUES, *inputs.TEXTS)) if draw.chance(80) else inputs.written(draw))
    sent = ["q"] * draw.number(2) + given
    run = run and path[0] in _RUN and not _NOT_RUN & {*sent}
    try:
        with contextlib.redirect_stdout(_NOWHERE), contextlib.redirect_stderr(_NOWHERE):
            context = chosen.make_context(path[-1], ["--url", _REFUSED, *sent] if run else sent)
            if run:
                with context:
                    chosen.invoke(context)
    except click.exceptions.ClickException as error:
        error.format_message()
        return False
    # Of `fail`, and of --help.
    except SystemExit as ended:
        code = ended.code
    except click.exceptions.Exit as ended:
        code = ended.exit_code
    else:
        return True
    assert code != Exit.ERROR, "an error without a code of its own"
    return code == Exit.NO_BROKER


class _Nowhere(io.StringIO):
    """Stands for a terminal that shows nothing."""

    def write(self, text: str) -> int:
        return len(text)


_NOWHERE = _Nowhere()

#: The targets, and how many of a thousand inputs each gets: about as many as it reads in the same time. A whole session
#: with a broker, and a parsed command line, cost as much as thirty bodies: they get the fewest.
SHARES: dict[Callable[[Draw], bool], int] = {
    decode: 150, call: 60, task: 60, event: 60, reply: 80, letter: 30, printed: 60, record: 110, token: 70,
    bindings: 90, item: 60, frames: 40, broker: 5, properties: 100, words: 20, command: 5,
}  # fmt: skip
TARGETS: dict[str, Callable[[Draw], bool]] = {each.__name__: each for each in SHARES}


def silence() -> None:
    """Switch the package's log lines off: every input would write some."""
    logging.disable(logging.CRITICAL)
