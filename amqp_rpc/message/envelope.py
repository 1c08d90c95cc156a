"""The AMQP properties of calls, tasks, events and replies, written and read: all of a message but its body. Pure.

The names and their meaning are the wire format (docs/wire-format.md); programs in other languages rely on them.
"""

from __future__ import annotations

import time
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

import msgspec

from amqp_rpc.errors import Undecodable
from amqp_rpc.message.codec import MSGPACK, base_type
from amqp_rpc.message.exchanges import Exchange
from amqp_rpc.message.headers import (
    ADDED_TO_EVENTS,
    ATTEMPT,
    CHUNK,
    CRASHES,
    DEADLINE,
    DECISIVE,
    HEADERS_DROPPED,
    IDEMPOTENT,
    SENDER,
    SHORTENED,
    TICK,
    TOPIC,
    UNREADABLE,
    WANTS_ALIVE,
    only_carried,
    others,
    read_count,
    read_text,
    read_time,
    shortened,
)
from amqp_rpc.message.settings import DEFAULT_CLOCK_SKEW
from amqp_rpc.message.text import text_of
from amqp_rpc.message.topology import DIRECT_REPLIES, HIGHEST_PRIORITY, comes_back

#: The types of replies: a result, an error, or the reply to a chunk of calls: a list of ``[true, result]`` and
#: ``[false, error]``.
RESULT: Final = "result"
ERROR: Final = "error"
RESULTS: Final = "results"
#: The type of a liveness message, which is no reply: a list of the correlation ids of calls that a server has unacked.
ALIVE: Final = "alive"
#: The app id in every reply of a server that sends liveness messages.
APPLICATION: Final = "amqp_rpc"
#: The type of a message by which a server checks its own queue; any other server that receives it acks and ignores it.
PROBE: Final = "amqp_rpc.probe"
#: The type of the scheduler's token.
CLOCK: Final = "amqp_rpc.clock"

#: The digits of the numbers that are too long for 64 bits.
_LONGEST_NUMBER = 20
#: The longest time to live, in milliseconds: RabbitMQ closes the channel (406) for more than 32 bits.
_LONGEST_EXPIRATION: Final = 2**32 - 1

#: The most characters of our headers that only people read, in each copy of `lighter`.
_LENGTHS = (16_000, 8_000, 4_000, 2_000, 1_000, 500, 250, 125, 60, 0)
#: The most characters of a header in `bare`.
_LONGEST_TEXT = 300


#: Bytes of a body that names other messages.
_NAMES_LIMIT = 16 * 1024
_names = msgspec.msgpack.Decoder(list[str]).decode


@dataclass(slots=True)
class Properties:
    """The properties of an AMQP message, under the names that AMQP 0-9-1 gives them."""

    content_type: str | None = None
    content_encoding: str | None = None
    headers: dict[str, Any] | None = None
    delivery_mode: int | None = None
    priority: int | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    expiration: str | None = None
    message_id: str | None = None
    timestamp: int | None = None
    type: str | None = None
    user_id: str | None = None
    app_id: str | None = None


@dataclass(slots=True)
class Message:
    """A message for a queue, at once through the default exchange or later through the delay queues; or an event.

    Args:
        routing_key: The name of its queue, or an event's topic.
        properties: Its properties.
        body: Its body.
        delay: Units of delay until it reaches its queue (`topology.units`); 0 for none.
        exchange: The exchange of an event; None for a message to a queue.
    """

    routing_key: str
    properties: Properties
    body: bytes
    delay: int = 0
    exchange: Exchange | None = None

    @property
    def target(self) -> str:
        """The queue or exchange to declare before it is published, as text: its name, or an exchange with its kind."""
        return self.routing_key if self.exchange is None else repr(self.exchange)


@dataclass(slots=True)
class Request:
    """A call or a task as a server reads it; any program may have written it, and no value is trusted."""

    function: str | None
    content_type: str
    content_encoding: str | None
    reply_to: str | None
    correlation_id: str | None
    message_id: str | None
    attempt: int
    deadline: float | None
    redelivered: bool
    #: All of its headers.
    headers: Mapping[str, Any] = field(repr=False)
    body: bytes = field(repr=False)
    #: The content type as its sender wrote it.
    said: str | None
    #: The user who sent it, if the broker has checked that, and the id of the key that signed it, if that was checked.
    user_id: str | None = None
    key: str | None = None

    @classmethod
    def read(cls, properties: Properties, body: bytes, *, redelivered: bool) -> Request:
        """Return the request in a delivery."""
        headers = properties.headers or {}
        function, kind, encoding = properties.type, properties.content_type, properties.content_encoding
        reply_to, message_id = properties.reply_to, properties.message_id
        attempt, deadline = headers.get(ATTEMPT), headers.get(DEADLINE)
        # This runs for every call: type() settles the common case faster than the readers that accept anything.
        said = kind if type(kind) is str else read_text(kind)
        due = None if deadline is None else read_milliseconds(deadline)
        # By position, in the order above: by names it would take four times as long.
        return cls(
            (function if type(function) is str else read_text(function)) or None,
            base_type(said),
            None if encoding is None else read_text(encoding),
            # pika gives bytes for text that is not UTF-8: no reply can go there.
            (reply_to or None) if isinstance(reply_to, str) else None,
            properties.correlation_id,
            message_id if type(message_id) is str else read_text(message_id),
            attempt if type(attempt) is int and attempt >= 0 else read_count(attempt, 1),
            None if due is None else due / 1000,
            redelivered,
            headers,
            body,
            said,
        )

    # Those that few messages have are read when they are asked for.

    @property
    def crashes(self) -> int:
        """How many workers died with it at this attempt."""
        return read_count(self.headers.get(CRASHES), 0)

    @property
    def idempotent(self) -> bool:
        """Whether its caller allows it to run more than once."""
        return self.headers.get(IDEMPOTENT) is True

    @property
    def chunked(self) -> bool:
        """Whether its body is a list of calls."""
        return self.headers.get(CHUNK) is True

    @property
    def tick(self) -> int | None:
        """When a scheduled task was due, Unix milliseconds."""
        tick = read_milliseconds(self.headers.get(TICK))
        return int(tick) if tick is not None and tick >= 1 else None

    @property
    def unreadable(self) -> str | None:
        """Names what could not be read of it; None where all was."""
        return read_text(self.headers.get(UNREADABLE))

    def check(self) -> None:
        """Check that all of it was read: what is not known is not the default.

        Raises:
            Undecodable: A property, or a header, could not be read.
        """
        if self.headers.get(UNREADABLE) is not None:
            raise Undecodable(f"its properties can't be read: {self.unreadable}")

    @property
    def may_have_run(self) -> bool:
        """Whether an earlier attempt of it was sent to a server: a client's, or one that a server died with."""
        return self.attempt > 1 or self.crashes > 0 or self.redelivered

    def expired(self, now: float, *, clock_skew: float = DEFAULT_CLOCK_SKEW) -> bool:
        """Return whether its deadline has passed at the Unix time ``now``, by clocks that differ by ``clock_skew``."""
        return self.deadline is not None and now > self.deadline + clock_skew


def read_milliseconds(value: object) -> float | None:
    """Return a number of milliseconds that is written as text or as a number; None for other values."""
    if isinstance(value, str):
        # At most as long as a number of 64 bits, and digits that `int` takes.
        return int(value) if len(value) < _LONGEST_NUMBER and value.isdecimal() else None
    # A number out of range, such as a float of 1e300 or NaN, is no time.
    return value if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63 else None


def milliseconds(seconds: float) -> str:
    """Return a Unix time as a header has it: the digits of its milliseconds.

    They are text: a number of 64 bits is no value that all clients read (Perl's can't).
    """
    return str(int(seconds * 1000))


def request_properties(
    *,
    function: str,
    content_type: str,
    identity: str,
    reply_to: str,
    remaining: float,
    attempt: int = 1,
    idempotent: bool = False,
    chunk: bool = False,
    headers: Mapping[str, Any] | None = None,
) -> Properties:
    """Return the properties of a call that is about to be sent, with ``remaining`` seconds of its timeout left.

    Attempts count from 1, and all have the same identity. The body of a ``chunk`` is a list of calls. The ``headers``
    are the caller's.
    """
    now = time.time()
    ours: dict[str, Any] = {DEADLINE: milliseconds(now + remaining), ATTEMPT: attempt, WANTS_ALIVE: True}
    if idempotent:
        ours[IDEMPOTENT] = True
    if chunk:
        ours[CHUNK] = True
    if headers:
        ours |= headers
    # Set one by one, as all properties of messages that are sent often: named arguments take three times as long.
    made = Properties(content_type)
    made.headers = ours
    made.correlation_id = made.message_id = identity
    made.reply_to = reply_to
    # RabbitMQ drops the call once its caller has stopped waiting: https://www.rabbitmq.com/docs/ttl
    made.expiration = str(max(1, int(remaining * 1000)))
    made.timestamp = int(now)
    made.type = function
    return made


def copied(properties: Properties, **changes: Any) -> Properties:
    """Return a copy with some properties changed; ``properties`` may be pika's object, which has the same names."""
    return Properties(**{name: getattr(properties, name) for name in Properties.__slots__} | changes)


def sender(properties: Properties, servers: Container[str]) -> str | None:
    """Return the user who sent a message, as far as the broker has checked it; None if it has not.

    The broker checks the ``user_id``: https://www.rabbitmq.com/docs/validated-user-id. In a copy it is a server's user,
    one of the ``servers``, and a header of the copy names the sender.
    """
    user = properties.user_id
    if not isinstance(user, str):
        return None
    named = (properties.headers or {}).get(SENDER) if user in servers else None
    return named if isinstance(named, str) else user


def republished(
    properties: Properties,
    headers: Mapping[str, Any] = MappingProxyType({}),
    *,
    without: Container[str] = (),
    **changes: Any,
) -> Properties:
    """Return the properties of a copy of a received message: the one way to publish what was received.

    Any program may have written them, and the copy is published with our rights. So nothing that the broker or a plugin
    acts on is copied:

    - ``content_type``, ``content_encoding``, ``correlation_id``, ``message_id``, ``type``, ``timestamp`` and ``app_id``
      are: the broker carries them only.
    - ``reply_to`` is, but for the name of direct replies: the broker closes the channel (406) of a sender that consumes
      none (https://www.rabbitmq.com/docs/direct-reply-to).
    - ``priority`` is, up to the highest one: a task keeps its place among those of its queue.
    - ``delivery_mode`` and ``expiration`` are not: a copy is persistent, and has no time to live.
    - ``user_id`` is not: the broker closes the channel (406) for another user than ours
      (https://www.rabbitmq.com/docs/validated-user-id). Nor is ``cluster_id``, which is not used any more.
    - The headers are, but for those that the broker or a plugin reads (`headers.only_carried`).

    Args:
        properties: The received message's.
        headers: New headers, or new values of headers.
        without: Headers that the copy does not have.
        **changes: New values of properties: ours, or such as can't harm.
    """
    kept = {name: value for name, value in only_carried(properties.headers).items() if name not in without}
    priority, reply_to = properties.priority, properties.reply_to
    return Properties(
        **{
            "content_type": properties.content_type,
            "content_encoding": properties.content_encoding,
            "headers": {**kept, **headers},
            "delivery_mode": 2,
            "priority": min(priority, HIGHEST_PRIORITY) if isinstance(priority, int) else None,
            "correlation_id": properties.correlation_id,
            "reply_to": None if reply_to == DIRECT_REPLIES else reply_to,
            "message_id": properties.message_id,
            "timestamp": properties.timestamp,
            "type": properties.type,
            "app_id": properties.app_id,
            **changes,
        }
    )


def time_to_live(left: float) -> str:
    """Return the ``expiration`` of a message that the broker may drop after so many milliseconds."""
    return str(int(min(max(1, left), _LONGEST_EXPIRATION)))


def read_time_to_live(properties: Properties) -> str | None:
    """Return the ``expiration`` of a received message as one that the broker takes; None if it has none."""
    text = properties.expiration
    return time_to_live(int(text)) if isinstance(text, str) and text.isascii() and text.isdigit() else None


def task_properties(
    *,
    function: str,
    identity: str,
    expires: float | None,
    now: float,
    priority: int | None = None,
    content_type: str = MSGPACK,
    headers: Mapping[str, Any] | None = None,
) -> Properties:
    """Return the properties of a task, but for its ``reply_to``; no worker starts it after ``expires`` (Unix time).

    All its attempts have the same identity. The ``headers`` are those of the program that enqueues it.
    """
    ours: dict[str, Any] = {ATTEMPT: 1}
    if expires is not None:
        ours[DEADLINE] = milliseconds(expires)
    if headers:
        ours |= headers
    made = Properties(content_type)
    made.headers = ours
    made.delivery_mode, made.priority = 2, priority
    made.message_id = identity
    made.timestamp = int(now)
    made.type = function
    return made


def lighter(message: Message) -> Iterator[Message]:
    """Yield copies, each with shorter headers than the one before, of a message whose headers AMQP can't carry.

    Ours that only people read become shorter, and are left out in the end; of the reason a few words stay. The
    publisher's headers are in all copies.
    """
    headers = before = message.properties.headers or {}
    for most in _LENGTHS:
        cut = {name: shortened(name, value, most) for name, value in headers.items() if name in SHORTENED}
        kept = {name: cut.get(name, value) for name, value in headers.items() if cut.get(name, value) is not None}
        if kept != before:
            yield replace(message, properties=copied(message.properties, headers=kept))
        before = kept


def bare(message: Message) -> Message:
    """Return a copy with those of our headers that decide something, shortened; one says that others are missing.

    It is for a message that must not be lost, whose publisher's headers leave no room for ours.
    """
    headers = message.properties.headers or {}
    needed = {name: headers[name] for name in DECISIVE if isinstance(headers.get(name), str | int | float)}
    kept = {name: text_of(each)[:_LONGEST_TEXT] if isinstance(each, str) else each for name, each in needed.items()}
    dropped = {HEADERS_DROPPED: True} if others(headers) else {}
    return replace(message, properties=copied(message.properties, headers=kept | dropped))


def pack_names(names: Sequence[str]) -> Iterator[bytes]:
    """Yield bodies that have these names together, each of them small enough for `read_names`."""
    most = _NAMES_LIMIT // (5 + max((len(name.encode()) for name in names), default=0))
    for start in range(0, len(names), most):
        yield msgspec.msgpack.encode(names[start : start + most])


def read_names(body: bytes) -> list[str]:
    """Return the names in a small body, which is a message about other messages: the I/O thread reads it.

    Raises:
        Undecodable: It is no list of texts in msgpack, or has more than 16 KiB.
    """
    if len(body) > _NAMES_LIMIT:
        raise Undecodable(f"a body ({len(body)} bytes) of names is no larger than {_NAMES_LIMIT} bytes")
    try:
        return _names(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Undecodable(f"the body ({len(body)} bytes) is no list of names: {error}") from error


# Events. A topic is the routing key of a publication. A retry comes back by another one, so a subscriber writes the
# topic into a header when the event first comes: see `mark`.


@dataclass(frozen=True, slots=True)
class Event:
    """An event without its payload; a handler gets it in a parameter with this type hint.

    Args:
        topic: The topic of its publication: ``"orders.eu.paid"``.
        headers: The headers of its publication.
        id: Its id, the same in every queue and on every attempt; None if its publisher gave none.
        time: When it was published, to the second, in UTC; None if unknown.
        redelivered: Whether another worker had it before, and died or lost its connection: it may have been handled.

    Example:
        >>> from amqp_rpc import Service
        >>> service = Service("mail")
        >>> @service.subscribe("orders.*.paid")
        ... def thank(order: dict, event: Event) -> None:
        ...     print(event.topic, event.id, order)
    """

    topic: str
    headers: dict[str, Any]
    id: str | None
    time: datetime | None
    redelivered: bool


@dataclass(frozen=True, slots=True)
class PublishedEvent(Event):
    """An event with its payload: `Client.listen` yields it.

    Args:
        payload: A value as it travels; ``bytes`` where the body is not what its content type says.
    """

    payload: Any


def mark(properties: Properties, exchange: str, routing_key: str) -> None:
    """Write the topic of an event, delivered by an exchange, into its headers; and remove its reply address."""
    headers = properties.headers = properties.headers or {}
    if not comes_back(exchange) or not isinstance(headers.get(TOPIC), str):
        headers[TOPIC] = routing_key
    properties.reply_to = None


def read_event(request: Request, properties: Properties) -> Event:
    """Return an event that was marked."""
    headers = properties.headers or {}
    return Event(
        topic=str(headers.get(TOPIC, "")),
        headers=others(headers, than=ADDED_TO_EVENTS),
        id=request.message_id,
        time=read_time(properties.timestamp, per_second=1),
        redelivered=request.redelivered or request.crashes > 0,
    )


def event_properties(
    *, content_type: str, headers: dict[str, Any], identity: str, expires: float | None, now: float
) -> Properties:
    """Return the properties of an event; no subscriber begins it after ``expires`` (Unix time; None for never)."""
    if expires is not None:
        headers = {**headers, DEADLINE: milliseconds(expires)}
    return Properties(
        content_type=content_type,
        headers=headers or None,
        delivery_mode=2,
        message_id=identity,
        timestamp=int(now),
    )
