"""The headers of a message, by their names on the wire, and safe readers of them. Pure.

Any program may publish to a queue: no value is trusted to have the right type.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from amqp_rpc.errors import ConfigurationError
from amqp_rpc.message.text import brief, text_of

#: The attempt of a call or a task, from 1.
ATTEMPT: Final = "attempt"
#: The number of workers that died with it at this attempt.
CRASHES: Final = "crashes"
#: When it expires, Unix milliseconds: see `envelope.milliseconds`.
DEADLINE: Final = "deadline"
#: True: the call may run more than once.
IDEMPOTENT: Final = "idempotent"
#: True: the body is a list of calls.
CHUNK: Final = "chunk"
#: True: the caller understands liveness messages (type ``alive``).
WANTS_ALIVE: Final = "alive"
#: The schedule of a task, and when the task was due, Unix milliseconds, in the same way.
SCHEDULE: Final = "schedule"
TICK: Final = "tick"
#: The topic of an event, once a subscriber has received it.
TOPIC: Final = "amqp_rpc.topic"
#: The exception of the last attempt, in a few words.
LAST_ERROR: Final = "error"
#: Of a dead letter: why, from which queue, when (Unix milliseconds), the traceback, its earlier deaths as JSON.
REASON: Final = "reason"
QUEUE: Final = "queue"
DIED: Final = "died"
TRACEBACK: Final = "traceback"
HISTORY: Final = "history"
#: True: the publisher's headers are not in this copy of its message, since they left no room for ours.
HEADERS_DROPPED: Final = "headers_dropped"
#: Names what could not be read of a message: it is in a message as it is received, which is then not run.
UNREADABLE: Final = "unreadable"
#: The signature of a message: see `signature`.
SIGNATURE: Final = "amqp_rpc.signature"
#: Of a copy that a server has published: the user who sent the message, if the broker has checked it.
SENDER: Final = "amqp_rpc.user"
#: Of an item's dead letter: the id that the item had.
ITEM_ID: Final = "id"

#: All that mean something to amqp_rpc in a call, a task or an event: a publisher can't give them to an event.
#: `ITEM_ID` is not among them: only dead letters of items have it.
RESERVED: Final = frozenset(
    {
        ATTEMPT, CRASHES, DEADLINE, IDEMPOTENT, CHUNK, WANTS_ALIVE, SCHEDULE, TICK, TOPIC, LAST_ERROR,
        REASON, QUEUE, DIED, TRACEBACK, HISTORY, HEADERS_DROPPED, UNREADABLE, SIGNATURE, SENDER,
    }
)  # fmt: skip
#: Those that amqp_rpc adds to an event on its way; a handler sees all others.
ADDED_TO_EVENTS: Final = frozenset({TOPIC, ATTEMPT, CRASHES, DEADLINE, LAST_ERROR, HISTORY, SIGNATURE, SENDER})
#: Those about a death; a replayed dead letter has none of them.
OF_DEATH: Final = frozenset({REASON, DIED, TRACEBACK, CRASHES, LAST_ERROR, QUEUE, HISTORY})
#: Those that only people read, those that are shortened where a message's headers are too large, and those that decide
#: something: see `envelope.lighter`.
FOR_PEOPLE: Final = frozenset({TRACEBACK, LAST_ERROR, HISTORY})
SHORTENED: Final = FOR_PEOPLE | {REASON}
DECISIVE: Final = RESERVED - FOR_PEOPLE - {WANTS_ALIVE}

#: The characters of a reason that stay in any case.
_SHORTEST_REASON = 30

#: The prefix of RabbitMQ's own headers, and of those that its plugins read.
BROKER_PREFIX: Final = "x-"
#: The headers that name more routing keys of a message: https://www.rabbitmq.com/docs/sender-selected
MORE_KEYS: Final = frozenset({"CC", "BCC"})
#: How often a quorum queue got a message back: https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling
#: And how often it delivered the message before, for whatever reason, from RabbitMQ 4.3 on.
_COUNTS: Final = ("x-delivery-count", "x-acquired-count")
#: Why RabbitMQ itself dead-lettered a message: a policy may tell it to.
_FIRST_DEATH_REASON: Final = "x-first-death-reason"


def only_carried(headers: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the headers that RabbitMQ and its plugins carry and never read: a copy of a message may have them.

    With ``CC`` and ``BCC`` the broker would put the copy into every queue that the message's publisher named. With
    ``x-death`` it would take the copy for a message that goes in circles, and with ``x-delay`` a plugin would delay it.
    """
    return {
        name: value
        for name, value in (headers or {}).items()
        if name not in MORE_KEYS and not str(name).startswith(BROKER_PREFIX)
    }


def others(headers: Mapping[str, Any], *, than: Container[str] = RESERVED) -> dict[str, Any]:
    """Return the headers that are the sender's own: neither RabbitMQ's nor ours."""
    return {name: value for name, value in headers.items() if name not in than and name[:2] != BROKER_PREFIX}


def check_headers(headers: Mapping[str, Any] | None, of: str) -> dict[str, Any]:
    """Return a copy of the headers that a user gives a message, which is ``of`` some kind: ``"an event"``.

    Raises:
        ConfigurationError: A name is no text, is one of ours, or begins with ``x-``, as the broker's do.
    """
    if headers is None:
        return {}
    if not isinstance(headers, Mapping):
        raise ConfigurationError(f"headers= is a mapping of names to values, not {brief(headers)}")
    for name in headers:
        if not isinstance(name, str):
            raise ConfigurationError(f"a header's name is text, not {name!r}")
        if name in RESERVED or name.startswith(BROKER_PREFIX):
            raise ConfigurationError(
                f"{of} can't have a header {name!r}: those that begin with 'x-' are the broker's, and "
                f"{', '.join(sorted(RESERVED))} are amqp_rpc's"
            )
    return dict(headers)


def shortened(name: str, value: object, most: int) -> str | None:
    """Return a header of ours with at most so many characters, or None to leave it out.

    Of a traceback the end stays, where its cause is; of a history the last deaths; of other text the beginning.
    """
    if name == REASON:
        return text_of(value)[: max(most, _SHORTEST_REASON)]
    if not most:
        return None
    text = read_text(value) or ""
    if name != HISTORY or len(text) <= most:
        return text[-most:] if name == TRACEBACK else text[:most]
    try:
        deaths = json.loads(text)
    except (ValueError, RecursionError):
        return None
    while isinstance(deaths, list) and deaths:
        deaths = deaths[1:]
        if len(text := json.dumps(deaths, ensure_ascii=False)) <= most:
            return text if deaths else None
    return None


def delivery_count(headers: Mapping[str, Any] | None) -> int | None:
    """Return how often a quorum queue got the message back; None from a classic queue, which does not count.

    From RabbitMQ 4.3 on only failures count: the end of a consumer's channel, and not its timeout.
    """
    headers = headers or {}
    failed, acquired = _COUNTS
    counted = headers.get(failed, 0 if acquired in headers else None)
    # In a classic queue it is a stranger's; from a quorum queue it is pika's class of whole numbers.
    return counted if isinstance(counted, int) and not isinstance(counted, bool) and counted >= 0 else None


def read_reason(headers: Mapping[str, Any]) -> object:
    """Return why a message is a dead letter: our reason, else RabbitMQ's, else None."""
    return headers.get(REASON, headers.get(_FIRST_DEATH_REASON))


def read_count(value: object, default: int) -> int:
    """Return a whole number from 0, or the default."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else default


def read_time(value: object, *, per_second: int) -> datetime | None:
    """Return a point in time that is written as a number or as AMQP's timestamp; None for other values."""
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return datetime.fromtimestamp(value / per_second, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def read_text(value: object) -> str | None:
    """Return a text; bytes that are not UTF-8 come escaped."""
    if value is None or isinstance(value, str):
        return value
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)
