"""Dead letters: how a failed message becomes one, how people read and filter them, and how one is replayed. Pure.

A worker writes into the headers why and when the message failed. But any program may publish to a dead-letter queue: no
value is trusted to have the right type.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from types import MappingProxyType
from typing import Any

from amqp_rpc.errors import AmqpRpcError, ConfigurationError, NamesAnotherQueue, PublishRefused
from amqp_rpc.message import codec
from amqp_rpc.message.envelope import Message, Properties, Request, republished
from amqp_rpc.message.headers import (
    ATTEMPT,
    DEADLINE,
    DIED,
    HEADERS_DROPPED,
    HISTORY,
    OF_DEATH,
    QUEUE,
    REASON,
    SENDER,
    TOPIC,
    TRACEBACK,
    UNREADABLE,
    read_count,
    read_reason,
    read_time,
)
from amqp_rpc.message.text import Brevity, brief, quoted, text_of
from amqp_rpc.message.topology import dead_letter_queue

#: Characters of a dead letter's reason; earlier deaths that it remembers, and the characters of their reasons: all
#: headers have to fit into one frame.
LONGEST_REASON, MOST_DEATHS, LONGEST_REMEMBERED = 1000, 10, 300
#: Bytes of a body that is decoded to be shown; a larger one is shown as bytes.
_MOST_DECODED = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Death:
    """An earlier death of a replayed dead letter: when (None if unknown), why, and at which attempt, from 1."""

    died: datetime | None
    reason: str
    attempt: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that failed for good, as `DeadLetters.list` returns it.

    Args:
        id: The id of the task, event or call; None if its publisher gave none.
        function: The function that it was for; None for events, and for messages that name none.
        topic: The event's topic; None for all others.
        queue: The queue that it names as its own. A replay publishes it there, if these are the dead letters of that
            queue; otherwise `DeadLetters.replay` wants ``to=``.
        reason: Why it failed.
        attempt: The attempt that failed, from 1.
        crashes: Workers that died with it at that attempt.
        died: When it became a dead letter; None if unknown.
        enqueued: When it was first sent, to the second; None if unknown.
        traceback: The traceback of the function's exception; None if it raised none.
        arguments: Its arguments as text, shortened; the beginning of its bytes if they can't be decoded.
        size: Bytes of its body.
        body: Its decoded body: ``[positional, named]``, or the payload of an event. None if it can't be decoded, or has
            more than 1 MiB.
        history: Its earlier deaths, oldest first, if it was replayed before.
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
    body: Any = field(repr=False)
    history: list[Death]


def read(properties: Properties, body: bytes, *, queue: str, whole: bool = False) -> DeadLetter:
    """Return a message from the dead-letter queue of ``queue`` as a value.

    Args:
        properties: As they came.
        body: As it came.
        queue: Its queue, unless its headers name another.
        whole: Show the arguments in full, or nearly so.
    """
    headers = properties.headers or {}
    request = Request.read(properties, body, redelivered=False)
    traceback, topic = headers.get(TRACEBACK), headers.get(TOPIC)
    arguments, value = _arguments(request, whole=whole)
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
        arguments=arguments,
        size=len(body),
        body=value,
        history=_history(headers.get(HISTORY)),
    )


def died(properties: Properties) -> datetime | None:
    """Return when a message became a dead letter; None if unknown."""
    return read_time((properties.headers or {}).get(DIED), per_second=1000)


def home(properties: Properties, queue: str) -> str:
    """Return the queue that a letter came from: the one in its header, else ``queue``."""
    there = (properties.headers or {}).get(QUEUE)
    return there if isinstance(there, str) and there else queue


class Choice:
    """A filter of dead letters: those that meet all conditions which are given.

    Args:
        ids: Their ids, or one id.
        function: The name of their function.
        before: They died before it.
        after: They died then or later.

    Raises:
        ConfigurationError: A time has no zone.
    """

    def __init__(
        self,
        *,
        ids: str | Iterable[str] | None = None,
        function: str | None = None,
        before: datetime | None = None,
        after: datetime | None = None,
    ) -> None:
        for name, time in (("before", before), ("after", after)):
            if time is not None and time.tzinfo is None:
                raise ConfigurationError(f"{name} has no time zone: {time!r}; datetime.now(UTC) - … has one")
        self._ids = None if ids is None else frozenset([ids] if isinstance(ids, str) else ids)
        self._function, self._before, self._after = function, before, after
        #: True for a filter without conditions.
        self.everything: bool = all(each is None for each in (ids, function, before, after))

    def count(self, everything: int) -> int | None:
        """Return how many letters of so many meet the conditions at the most; None if that is not known."""
        if self.everything:
            return everything
        return None if self._ids is None else len(self._ids)

    def takes(self, properties: Properties) -> bool:
        """Return whether a letter meets the conditions; without a time of death it meets none about time."""
        if self._ids is not None and properties.message_id not in self._ids:
            return False
        if self._function is not None and properties.type != self._function:
            return False
        if self._before is None and self._after is None:
            return True
        time = died(properties)
        return (
            time is not None
            and (self._before is None or time < self._before)
            and (self._after is None or time >= self._after)
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
    """Return the dead letter of a failed message.

    Args:
        properties: As they came.
        body: As it came.
        queue: The queue that the message came from.
        reason: Why it failed.
        now: Unix time in seconds.
        details: More headers.
        identity: An id in the place of its own.
    """
    headers = {REASON: quoted(reason, LONGEST_REASON), QUEUE: queue, DIED: int(now * 1000), **details}
    return Message(dead_letter_queue(queue), _kept(properties, headers, identity or properties.message_id), body)


def replayed(properties: Properties, body: bytes, *, queue: str, now: float, to: str | None = None) -> Message:
    """Return a dead letter as it is published to its queue again: at its first attempt, with its history.

    Args:
        properties: As they came.
        body: As it came.
        queue: The queue whose dead letters are replayed.
        now: Unix time in seconds.
        to: The queue that it goes to; ``queue`` unless given.

    Raises:
        NamesAnotherQueue: It names another queue, and there is no ``to``.
        PublishRefused: It is not the message that was published: it has lost its publisher's headers.
    """
    named, identity = home(properties, queue), properties.message_id
    if to is None and named != queue:
        raise NamesAnotherQueue(
            f"dead letter [{identity}] names another queue, {named!r}: replay it with to=, the queue that it goes to",
            {named: [identity or ""]},
        )
    headers = properties.headers or {}
    if (lost := headers.get(UNREADABLE)) is not None:
        raise PublishRefused(
            f"dead letter [{properties.message_id}] has lost what could not be read of it ({brief(lost)}); it is not "
            "replayed without that. Publish the message again, or drop the letter"
        )
    if headers.get(HEADERS_DROPPED):
        raise PublishRefused(
            f"dead letter [{properties.message_id}] has lost the headers of its publisher, which left no room for ours "
            "in a frame; it is not replayed without them. Publish the message again, or drop the letter"
        )
    request = Request.read(properties, body, redelivered=False)
    added = {ATTEMPT: 1, HISTORY: _remembered(request, headers)}
    # A person wants it to run, though its time is over.
    over = request.deadline is None or request.deadline <= now
    # Its sender is who replays it.
    without = OF_DEATH | {SENDER, DEADLINE} if over else OF_DEATH | {SENDER}
    return Message(to or queue, _kept(properties, added, _identity(properties), without=without), body)


def renewed(properties: Properties, body: bytes, *, queue: str) -> Message:
    """Return a copy of a dead letter for the dead-letter queue: RabbitMQ counts the copy's deliveries from 0."""
    return Message(queue, _kept(properties, {}, _identity(properties)), body)


def _kept(
    properties: Properties, headers: Mapping[str, Any], identity: str | None, *, without: Container[str] = ()
) -> Properties:
    return republished(properties, headers, without=without, reply_to=None, app_id=None, message_id=identity)


def _identity(properties: Properties) -> str:
    """Return the id of a message, or a new one: a message that is replayed must have one to be recognized again."""
    return properties.message_id or secrets.token_hex(16)


def _remembered(request: Request, headers: Mapping[str, Any]) -> str:
    """Return the header `HISTORY` of a replayed letter: JSON, which every language and every tool reads."""
    last = Death(read_time(headers.get(DIED), per_second=1000), _reason(headers)[:LONGEST_REMEMBERED], request.attempt)
    deaths = [*_history(headers.get(HISTORY)), last][-MOST_DEATHS:]
    return json.dumps(
        [{DIED: d.died and round(d.died.timestamp() * 1000), REASON: d.reason, ATTEMPT: d.attempt} for d in deaths],
        ensure_ascii=False,
    )


def _history(header: object) -> list[Death]:
    try:
        found = json.loads(header) if isinstance(header, str | bytes) else None
    except (ValueError, RecursionError):
        return []
    return [
        Death(read_time(d.get(DIED), per_second=1000), text_of(d.get(REASON)), read_count(d.get(ATTEMPT), 1) or 1)
        for d in (found if isinstance(found, list) else [])
        if isinstance(d, dict)
    ]


def _reason(headers: Mapping[str, Any]) -> str:
    reason = read_reason(headers)
    return "not known" if reason is None else text_of(reason)


def _arguments(request: Request, *, whole: bool) -> tuple[str, Any]:
    """Return the arguments as text, and the decoded body; None for one that can't be decoded."""
    shown = partial(brief, brevity=Brevity(2000, 100) if whole else Brevity(40, 6))
    try:
        value = codec.decode(request.body, request.content_type, limit=_MOST_DECODED)
    except AmqpRpcError:
        return shown(request.body[:2000]), None
    match value:
        case [list() as args, dict() as kwargs] if not request.chunked:
            named = [f"{name}={shown(each)}" for name, each in kwargs.items()]
            return ", ".join([*map(shown, args), *named]), value
        case list() as calls if request.chunked:
            return f"{len(calls)} calls: {shown(calls)}", value
    return shown(value), value
