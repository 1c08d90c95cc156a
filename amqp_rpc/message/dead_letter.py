"""Dead letters as values: what is known of one, which of them are meant, and how one goes back to its queue. Pure.

What is known stands in a letter's headers, where a server wrote it: ``reason``, ``queue``, ``died``, ``attempt``,
``crashes``, ``traceback``. Anybody may put messages there, so nothing is trusted to have the right type.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from reprlib import Repr
from types import MappingProxyType
from typing import Any

from amqp_rpc.errors import AmqpRpcError, ConfigurationError
from amqp_rpc.message import codec
from amqp_rpc.message.envelope import Message, Properties, Request, republished
from amqp_rpc.message.headers import (
    ATTEMPT,
    DEADLINE,
    DIED,
    HISTORY,
    OF_DEATH,
    QUEUE,
    REASON,
    TOPIC,
    TRACEBACK,
    read_count,
    read_reason,
    read_time,
)
from amqp_rpc.message.text import text_of
from amqp_rpc.message.topology import dead_letter_queue

#: Characters of a dead letter's reason; earlier deaths that it remembers, and the characters of their reasons: all
#: headers have to fit into one frame.
LONGEST_REASON, MOST_DEATHS, LONGEST_REMEMBERED = 1000, 10, 300
#: Bytes of a body up to which it is decoded to be shown.
_MOST_DECODED = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Death:
    """An earlier death of a letter that was replayed.

    Args:
        died: When; None where it is not known.
        reason: Why.
        attempt: At which try, from 1.
    """

    died: datetime | None
    reason: str
    attempt: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that could not be done, as `DeadLetters.list` returns it.

    Args:
        id: The task's id, the event's, or the call's; None where a foreign program gave none.
        function: The function that it was for; None where it names none, as events don't.
        topic: The event's; None where it is no event.
        queue: Where it was, and where a replay puts it.
        reason: Why it is here.
        attempt: At which try it died, from 1.
        crashes: Workers that died with it at that try.
        died: When it came here; None where that is not known.
        enqueued: When it was first sent, to the second; None where that is not known.
        traceback: Of what its function raised; None where it raised nothing.
        arguments: Its arguments as text, shortened; the beginning of its bytes where they can't be read.
        size: Bytes of its body.
        history: Its earlier deaths, oldest first, where it was replayed before.
    """

    id: str | None
    function: str | None
    topic: str | None
    queue: str
    reason: str
    attempt: int
    crashes: int
    died: datetime | None
    enqueued: datetime | None
    traceback: str | None = field(repr=False)
    arguments: str
    size: int
    history: list[Death]


def read(properties: Properties, body: bytes, *, queue: str, whole: bool = False) -> DeadLetter:
    """Return the dead letter that a message is.

    Args:
        properties: As they came.
        body: As it came.
        queue: The queue whose dead letters these are.
        whole: Whether the arguments are shown in full, or nearly so.
    """
    headers = properties.headers or {}
    request = Request.read(properties, body, redelivered=False)
    traceback, topic = headers.get(TRACEBACK), headers.get(TOPIC)
    return DeadLetter(
        id=request.message_id,
        function=request.function,
        topic=topic if isinstance(topic, str) else None,
        queue=home(properties, queue),
        reason=_reason(headers),
        attempt=request.attempt,
        crashes=request.crashes,
        died=died(properties),
        enqueued=read_time(properties.timestamp, per_second=1),
        traceback=text_of(traceback) if traceback is not None else None,
        arguments=_arguments(request, whole=whole),
        size=len(body),
        history=_history(headers.get(HISTORY)),
    )


def died(properties: Properties) -> datetime | None:
    """Return when a message became a dead letter; None where it does not say."""
    return read_time((properties.headers or {}).get(DIED), per_second=1000)


def home(properties: Properties, queue: str) -> str:
    """Return the queue that a letter came from: by its header, else ``queue``."""
    there = (properties.headers or {}).get(QUEUE)
    return there if isinstance(there, str) and there else queue


@dataclass(frozen=True, slots=True)
class Choice:
    """Which dead letters are meant: those that fit all that is given.

    Args:
        ids: Their ids; None for any.
        function: The name of their function; None for any.
        before: They died before it; None for no bound.
        after: They died then or later; None for no bound.

    Raises:
        ConfigurationError: A time has no zone.
    """

    ids: frozenset[str] | None = None
    function: str | None = None
    before: datetime | None = None
    after: datetime | None = None

    @classmethod
    def made(
        cls,
        *,
        ids: str | Iterable[str] | None = None,
        function: str | None = None,
        before: datetime | None = None,
        after: datetime | None = None,
    ) -> Choice:
        """Return the choice that some filters make; one id need not be in a list."""
        known = None if ids is None else frozenset([ids] if isinstance(ids, str) else ids)
        return cls(known, function, before, after)

    def __post_init__(self) -> None:
        for name, time in (("before", self.before), ("after", self.after)):
            if time is not None and time.tzinfo is None:
                raise ConfigurationError(f"{name} has no time zone: {time!r}; datetime.now(UTC) - … has one")

    @property
    def everything(self) -> bool:
        """Whether it leaves none out."""
        return self == Choice()

    def takes(self, properties: Properties) -> bool:
        """Return whether a letter is meant; one that does not say when it died is not, where a time is given."""
        if self.ids is not None and properties.message_id not in self.ids:
            return False
        if self.function is not None and properties.type != self.function:
            return False
        if self.before is None and self.after is None:
            return True
        time = died(properties)
        return (
            time is not None
            and (self.before is None or time < self.before)
            and (self.after is None or time >= self.after)
        )


def dead_letter(
    properties: Properties,
    body: bytes,
    *,
    queue: str,
    reason: str,
    now: float,
    details: Mapping[str, Any] = MappingProxyType({}),
    identity: str | None = None,
) -> Message:
    """Return the message that keeps a failed one in the dead-letter queue of its queue.

    Args:
        properties: As they came.
        body: As it came.
        queue: Where the message was.
        reason: Why it failed.
        now: Unix time in seconds.
        details: More headers.
        identity: Another id than its own.
    """
    headers = {REASON: reason[:LONGEST_REASON], QUEUE: queue, DIED: int(now * 1000), **details}
    return Message(dead_letter_queue(queue), _kept(properties, headers, identity=identity), body)


def replayed(properties: Properties, body: bytes, *, queue: str, now: float) -> Message:
    """Return the message that takes a dead letter back to its queue: at its first try, with its history.

    Args:
        properties: As they came.
        body: As it came.
        queue: The queue whose dead letters these are.
        now: Unix time in seconds.
    """
    headers = properties.headers or {}
    added = {ATTEMPT: 1, HISTORY: _remembered(Request.read(properties, body, redelivered=False), headers)}
    # A person wants it to run, though its time is over.
    deadline = headers.get(DEADLINE)
    over = not isinstance(deadline, int | float) or deadline / 1000 <= now
    without = OF_DEATH | {DEADLINE} if over else OF_DEATH
    return Message(
        home(properties, queue), _kept(properties, added, without=without, identity=_identity(properties)), body
    )


def renewed(properties: Properties, body: bytes, *, queue: str) -> Message:
    """Return a copy of a dead letter for the queue that it is in: RabbitMQ counts the copy's deliveries from 0."""
    return Message(queue, _kept(properties, {}, identity=_identity(properties)), body)


def _kept(
    properties: Properties, headers: Mapping[str, Any], *, without: Container[str] = (), identity: str | None
) -> Properties:
    return republished(
        properties,
        headers,
        without=without,
        reply_to=None,
        app_id=None,
        message_id=properties.message_id if identity is None else identity,
    )


def _identity(properties: Properties) -> str:
    """Return the id of a message, or a new one, by which a message without an id is known when it comes again."""
    return properties.message_id or f"replayed-{secrets.token_hex(16)}"


def _remembered(request: Request, headers: Mapping[str, Any]) -> str:
    """Return the header `HISTORY` of a letter that is replayed: JSON, which every language and every tool reads."""
    died = read_time(headers.get(DIED), per_second=1000)
    deaths = [
        *_history(headers.get(HISTORY)),
        Death(died, _reason(headers)[:LONGEST_REMEMBERED], request.attempt),
    ]
    return json.dumps(
        [
            {
                DIED: None if death.died is None else round(death.died.timestamp() * 1000),
                REASON: death.reason,
                ATTEMPT: death.attempt,
            }
            for death in deaths[-MOST_DEATHS:]
        ],
        ensure_ascii=False,
    )


def _history(header: object) -> list[Death]:
    try:
        found = json.loads(header) if isinstance(header, str | bytes) else None
    except (ValueError, RecursionError):
        return []
    deaths = found if isinstance(found, list) else []
    return [
        Death(
            read_time(each.get(DIED), per_second=1000),
            str(each.get(REASON)),
            read_count(each.get(ATTEMPT), 1) or 1,
        )
        for each in deaths
        if isinstance(each, dict)
    ]


def _reason(headers: Mapping[str, Any]) -> str:
    reason = read_reason(headers)
    return "not known" if reason is None else text_of(reason)


def _arguments(request: Request, *, whole: bool) -> str:
    brief = Repr()
    brief.maxstring = brief.maxother = 2000 if whole else 40
    brief.maxlist = brief.maxdict = brief.maxtuple = 100 if whole else 6
    try:
        value = codec.decode(request.body, request.content_type, limit=_MOST_DECODED)
    except AmqpRpcError:
        return brief.repr(request.body[:2000])
    match value:
        case [list() as args, dict() as kwargs] if not request.chunked:
            named = [f"{name}={brief.repr(each)}" for name, each in kwargs.items()]
            return ", ".join([*map(brief.repr, args), *named])
        case list() as calls if request.chunked:
            return f"{len(calls)} calls: {brief.repr(calls)}"
    return brief.repr(value)
