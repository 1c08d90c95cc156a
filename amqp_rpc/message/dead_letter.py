"""Dead letters as values: what is known of one, which of them are meant, and how one goes back to its queue. Pure.

What is known stands in a letter's headers, where a server wrote it: ``reason``, ``queue``, ``died``, ``attempt``,
``crashes``, ``traceback``. Anybody may put messages there, so nothing is trusted to have the right type.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from reprlib import Repr
from typing import Any

from amqp_rpc.errors import AmqpRpcError, ConfigurationError
from amqp_rpc.message import codec
from amqp_rpc.message.envelope import Message, Properties, Request, copied
from amqp_rpc.message.headers import (
    ATTEMPT,
    DEADLINE,
    DIED,
    HISTORY,
    OF_DEATH,
    QUEUE,
    TOPIC,
    TRACEBACK,
    read_count,
    read_reason,
    read_time,
    without_broker_headers,
)

#: Deaths that a letter remembers, and the characters of each one's reason: headers have to fit into one frame.
MOST_DEATHS, LONGEST_REASON = 10, 300
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
        traceback=codec.text_of(traceback) if traceback is not None else None,
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


def replayed(properties: Properties, body: bytes, *, queue: str, now: float) -> Message:
    """Return a dead letter as it goes back to its queue: the same message, at its first try, with its history.

    Args:
        properties: As they came.
        body: As it came.
        queue: The queue whose dead letters these are.
        now: Unix time in seconds.
    """
    before = properties.headers or {}
    headers = {name: value for name, value in without_broker_headers(before).items() if name not in OF_DEATH}
    headers[ATTEMPT] = 1
    headers[HISTORY] = _remembered(Request.read(properties, body, redelivered=False), before)
    # What a person has replayed is wanted, though its time was over.
    deadline = headers.get(DEADLINE)
    if not isinstance(deadline, int | float) or deadline / 1000 <= now:
        headers.pop(DEADLINE, None)
    return Message(home(properties, queue), _kept(properties, headers), body)


def renewed(properties: Properties, body: bytes, *, queue: str) -> Message:
    """Return a copy of a dead letter for the very queue that it is in, which the broker has not counted yet."""
    return Message(queue, _kept(properties, without_broker_headers(properties.headers)), body)


def _kept(properties: Properties, headers: dict[str, Any]) -> Properties:
    # What has no id gets one, by which it is known when it comes again.
    identity = properties.message_id or f"replayed-{secrets.token_hex(16)}"
    return copied(
        properties, headers=headers, delivery_mode=2, reply_to=None, expiration=None, app_id=None, message_id=identity
    )


def _remembered(request: Request, headers: dict[str, Any]) -> str:
    deaths = _history(headers.get(HISTORY))
    deaths.append(
        Death(read_time(headers.get(DIED), per_second=1000), _reason(headers)[:LONGEST_REASON], request.attempt)
    )
    # As text, which every language reads, and every tool shows.
    return json.dumps(
        [
            {
                "died": None if death.died is None else round(death.died.timestamp() * 1000),
                "reason": death.reason,
                "attempt": death.attempt,
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
            read_time(each.get("died"), per_second=1000),
            str(each.get("reason")),
            read_count(each.get("attempt"), 1) or 1,
        )
        for each in deaths
        if isinstance(each, dict)
    ]


def _reason(headers: dict[str, Any]) -> str:
    reason = read_reason(headers)
    return "not known" if reason is None else codec.text_of(reason)


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
