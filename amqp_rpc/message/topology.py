"""Names on the broker, with the arguments of queues and the keys of bindings: all of them come from here. Pure.

Each queue says its type and its bounds, also where they are the broker's defaults: a virtual host has a default type of
queues, a policy may set bounds, and a version of RabbitMQ may change either. A queue whose arguments name no type is
declared as a classic one (`amqp.channel.Channel.declare`).

A delayed message passes a chain of delay queues, one for each bit of its delay: the queue of level k holds the messages
with that bit set for 2^k units, by a time to live that all of its messages share, and hands them to the next lower
level; all others pass the level at once. So no message waits behind one that waits longer, as in one queue with a time
to live for each message, where messages expire only at the head (https://www.rabbitmq.com/docs/ttl). Any delay works
without a plugin, and survives restarts. NServiceBus and Celery delay in the same way:
https://docs.particular.net/transports/rabbitmq/delayed-delivery
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
from typing import Final

from amqp_rpc.errors import ConfigurationError
from amqp_rpc.message.timing import Seconds, seconds_of

#: The queues of calls and of tasks for a service without a name: the ones that RabbitMQ's tutorials use.
CALL_QUEUE = "rpc_queue"
TASK_QUEUE = "task_queue"

#: The prefix of the delay queues, and the exchange behind all of them, to which task queues are bound.
DELAY = "amqp_rpc.delay"
ARRIVALS = f"{DELAY}.arrivals"

#: The name of a level, and what a regular expression does not take as it is.
_LEVEL = re.compile(rf"{re.escape(DELAY)}\.\d\d")
_SPECIAL = re.compile(r"[.^$*+?{}\[\]|()\\]")

#: The exchange of the messages whose delay is over and for which no queue is bound, and the queue that keeps them.
UNROUTED = f"{DELAY}.unrouted"
ABANDONED = f"{UNROUTED}.dead"

#: The exchange of events, unless another one is named.
EVENTS = "amqp_rpc.events"

#: The prefix of the queues by which delayed messages arrive in another queue.
_ARRIVALS_QUEUE = "amqp_rpc.arrivals."

#: Milliseconds until RabbitMQ hands on by itself what no server has moved.
_ARRIVALS_WAIT = 60_000

#: The prefix of the queues of single instances, and a queue that drops all it gets: retries for them go there as well.
_INSTANCE = "amqp_rpc.instance"
GONE = "amqp_rpc.gone"
GONE_ARGUMENTS: Final[dict[str, object]] = {"x-max-length": 0, "x-overflow": "drop-head"}
#: The pattern that all of them match.
INSTANCES = f"{_INSTANCE}.#"

#: The name of no queue: messages that go there are dropped by the broker.
NOWHERE = "amqp_rpc.nowhere"

#: The prefix of the exchanges that say that a queue of calls has a bound.
_BOUNDED = "amqp_rpc.bounded."

#: The prefix of the queues of unique keys.
_UNIQUE = "amqp_rpc.unique."

#: The arguments of a queue that records bindings: it holds one message, the last one.
RECORD_ARGUMENTS: Final[dict[str, object]] = {"x-max-length": 1, "x-overflow": "drop-head"}

#: The name for direct replies, and the prefix of the addresses by which the broker replaces it:
#: https://www.rabbitmq.com/docs/direct-reply-to
DIRECT_REPLIES = "amq.rabbitmq.reply-to"
DIRECT_REPLY_TO = f"{DIRECT_REPLIES}."


#: The prefix of the names that RabbitMQ chooses; and the name of the default exchange where rights are about it.
NAMED_BY_BROKER = "amq.gen-"
DEFAULT_EXCHANGE = "amq.default"


#: Deliveries that a message may have when they must not be bounded: the largest number of 32 bits.
MOST_DELIVERIES = 2**31 - 1

#: The arguments of a scheduler's queue: one consumer is active, the others stand by.
#: https://www.rabbitmq.com/docs/consumers#single-active-consumer
CLOCK_ARGUMENTS: Final[dict[str, object]] = {
    "x-queue-type": "quorum",
    "x-single-active-consumer": True,
    "x-delivery-limit": MOST_DELIVERIES,
}

#: Priorities of messages are from 0 to this one: https://www.rabbitmq.com/docs/priority
HIGHEST_PRIORITY = 9

#: Bytes of a name or a routing key: AMQP 0-9-1 counts them in one octet.
LONGEST_NAME = 255

#: Seconds of level 0: delays are rounded up to a multiple of it, so that a task is never early.
UNIT = 0.1
#: Levels: the longest delay is 2^28 - 1 units, 310 days.
LEVELS = 28
#: Bytes of the name of a queue that can have delays: the rest of a routing key is bits and dots.
LONGEST_DELAYED_NAME = LONGEST_NAME - 2 * LEVELS
#: The longest delay in seconds.
LONGEST_DELAY = (2**LEVELS - 1) * UNIT
_DELAYED_KEY = re.compile(rf"(?:[01]\.){{{LEVELS}}}(.+)", re.DOTALL)


def call_queue(service: str | None = None) -> str:
    """Return the queue that holds the calls of a service.

    Example:
        >>> call_queue(), call_queue("billing")
        ('rpc_queue', 'rpc_queue.billing')
    """
    return CALL_QUEUE if service is None else f"{CALL_QUEUE}.{service}"


def bounded(queue: str) -> str:
    """Return the exchange that says of a queue of calls that it refuses more than so many; it routes nothing.

    AMQP can't say that of a queue. A client that finds the exchange has the broker confirm its calls.
    """
    name = f"{_BOUNDED}{queue}"
    return name if len(name.encode()) <= LONGEST_NAME else f"{_BOUNDED}{hashlib.sha256(queue.encode()).hexdigest()}"


def holds_calls(queue: str) -> bool:
    """Return whether a name is that of a queue of calls."""
    return queue == CALL_QUEUE or queue.startswith(f"{CALL_QUEUE}.")


def task_queue(service: str | None = None) -> str:
    """Return the queue that holds the tasks of a service, unless they name another: ``task_queue.billing``."""
    return TASK_QUEUE if service is None else f"{TASK_QUEUE}.{service}"


def event_queue(service: str | None, function: str) -> str:
    """Return the queue of a subscription, unless it names another: ``events.mail.thank``."""
    return f"events.{function}" if service is None else f"events.{service}.{function}"


def dead_letter_queue(queue: str) -> str:
    """Return the queue of the dead letters of another queue: ``rpc_queue.dead``."""
    return f"{queue}.dead"


def holds_dead_letters(queue: str) -> bool:
    """Return whether a name is that of a dead-letter queue."""
    return queue.endswith(dead_letter_queue(""))


def lasting(name: str) -> str:
    """Return the exchange that proves that something has existed for longer than a moment; it routes nothing.

    It is the same for a queue and its dead-letter queue; "delay" stands for all delay queues.
    """
    return f"amqp_rpc.lasting.{name.removesuffix(dead_letter_queue(''))}"


def instance_queue(queue: str, token: str) -> str:
    """Return the queue of one instance of a broadcast subscription."""
    return f"{_INSTANCE}.{queue}.{token}"


def of_instance(queue: str) -> bool:
    """Return whether a queue is one instance's: the instance alone declares it, and RabbitMQ deletes it with it."""
    return queue.startswith(f"{_INSTANCE}.")


def bindings_record(queue: str) -> str:
    """Return the queue that records the bindings of a subscription's queue."""
    return f"amqp_rpc.bindings.{queue}"


def clock_queue(service: str | None = None) -> str:
    """Return the queue whose consumer is the scheduler of a service: ``amqp_rpc.clock.billing``."""
    return "amqp_rpc.clock" if service is None else f"amqp_rpc.clock.{service}"


def task_arguments(
    queue_type: str, *, max_length: int | None = None, max_priority: int | None = None
) -> dict[str, object]:
    """Return the arguments of a task queue: only those that are asked for, so that RabbitMQ's tutorials can declare it.

    The broker refuses more than ``max_length`` tasks.
    """
    arguments: dict[str, object] = {"x-queue-type": queue_type}
    if max_length is not None:
        arguments |= {"x-max-length": max_length, "x-overflow": "reject-publish"}
    if max_priority is not None:
        arguments |= {"x-max-priority": max_priority}
    return arguments


def dead_letter_arguments(queue_arguments: dict[str, object]) -> dict[str, object]:
    """Return the arguments of a queue's dead-letter queue: the same type, without any bound.

    A quorum queue counts how often a message was requeued, and from RabbitMQ 4.0 on drops it at the 21st time. Browsing
    dead letters requeues them, so the count has no bound either; every version accepts the largest number:
    https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling
    """
    quorum = queue_arguments.get("x-queue-type") == "quorum"
    return {"x-queue-type": "quorum", "x-delivery-limit": MOST_DELIVERIES} if quorum else {"x-queue-type": "classic"}


def item_arguments(queue_type: str, *, maxsize: int = 0) -> dict[str, object]:
    """Return the arguments of a queue between processes: see `queues`.

    A consumer that closes requeues its items: a quorum queue that bounds that count would drop an item in the end. The
    broker refuses more than ``maxsize`` items; 0 is no bound.
    """
    arguments = task_arguments(queue_type, max_length=maxsize or None)
    return arguments | ({"x-delivery-limit": MOST_DELIVERIES} if queue_type == "quorum" else {})


def named_by_broker(queue: str) -> bool:
    """Return whether a queue's name is one that RabbitMQ chose, as it does for reply queues."""
    return queue.startswith(NAMED_BY_BROKER)


def unique(queue: str, key: bytes, seconds: float) -> str:
    """Return the queue whose only place a unique key occupies for that many seconds."""
    digest = hashlib.sha256(b"\0".join((queue.encode(), str(float(seconds)).encode(), key))).hexdigest()
    return f"{_UNIQUE}{digest[:40]}"


def fleeting(queue: str) -> bool:
    """Return whether a queue need not survive."""
    return queue.startswith(_UNIQUE)


def unique_arguments(seconds: float) -> dict[str, object]:
    """Return the arguments of a key's queue: it has one place, refuses a second message, and expires.

    See https://www.rabbitmq.com/docs/maxlength and https://www.rabbitmq.com/docs/ttl
    """
    milliseconds = math.ceil(seconds * 1000)
    return {
        "x-max-length": 1,
        "x-overflow": "reject-publish",
        "x-message-ttl": milliseconds,
        # Longer than the message, which is published a moment after the queue is declared.
        "x-expires": milliseconds + 60_000,
    }


def units(seconds: Seconds) -> int:
    """Return a delay in units, rounded up.

    Raises:
        ConfigurationError: It is negative, no number, or longer than `LONGEST_DELAY`.

    Example:
        >>> units(0.25), units(30)
        (3, 300)
    """
    number = seconds_of(seconds)
    if number is None or not 0 <= number <= LONGEST_DELAY:
        raise ConfigurationError(
            f"a delay is a number of seconds from 0 to {LONGEST_DELAY:.0f} (310 days), not {seconds!r}"
        )
    # Rounded first: 0.3 / 0.1 is a little more than 3 in binary.
    return math.ceil(round(number / UNIT, 6))


def highest_level(count: int) -> int:
    """Return the level at which a delay of that many units begins."""
    return max(0, count.bit_length() - 1)


def delay(level: int) -> str:
    """Return the name of a level's exchange and of its delay queue."""
    return f"{DELAY}.{level:02d}"


def after_delay(level: int) -> str:
    """Return the exchange to which the delay queue of a level hands its messages on."""
    return delay(level - 1) if level else ARRIVALS


def delayed_key(count: int, queue: str) -> str:
    """Return the routing key of a message for ``queue`` in that many units: its bits, from the highest, and the name.

    Raises:
        ConfigurationError: The queue's name is too long for it.

    Example:
        >>> delayed_key(5, "thumbnails")[-20:]
        '.0.1.0.1.thumbnails'
    """
    bits = ".".join(str(count >> level & 1) for level in reversed(range(LEVELS)))
    key = f"{bits}.{queue}"
    if len(key.encode()) > LONGEST_NAME:
        raise ConfigurationError(
            f"queue {queue[:40]!r}… can't have delays: its name has more than {LONGEST_DELAYED_NAME} bytes"
        )
    return key


def delayed_queue(key: str) -> str | None:
    """Return the queue that a delayed message is for, by its routing key; None if that is no such key.

    Example:
        >>> delayed_queue(delayed_key(5, "thumbnails"))
        'thumbnails'
    """
    found = _DELAYED_KEY.fullmatch(key)
    return found[1] if found else None


def held_binding(level: int) -> str:
    """Return the binding of a level's delay queue: the messages with that bit set."""
    return _binding(level, "1")


def passed_binding(level: int) -> str:
    """Return the binding of the next lower level: the messages without that bit."""
    return _binding(level, "0")


def _binding(level: int, bit: str) -> str:
    return ".".join([*["*"] * (LEVELS - 1 - level), bit, "#"])


def arrived_binding(queue: str) -> str:
    """Return the binding of the messages for ``queue`` that have passed all levels."""
    return ".".join(["*"] * LEVELS) + f".{queue}"


def arrivals_queue(queue: str) -> str:
    """Return the queue by which delayed messages arrive in another: ``amqp_rpc.arrivals.thumbnails``."""
    return f"{_ARRIVALS_QUEUE}{queue}"


def holds_arrivals(queue: str) -> bool:
    """Return whether a name is that of an arrivals queue."""
    return queue.startswith(_ARRIVALS_QUEUE)


def comes_back(exchange: str) -> bool:
    """Return whether a message of an exchange is a republished copy: delayed, or sent directly to its queue."""
    return not exchange or exchange.startswith(f"{DELAY}.")


def delay_arguments(level: int, *, unit: float) -> dict[str, object]:
    """Return the arguments of a level's delay queue: it hands every message on after 2^level units, and loses none.

    At-least-once dead lettering needs all three last ones: https://www.rabbitmq.com/docs/quorum-queues#dead-lettering
    """
    return _handing_on(round(2**level * unit * 1000), after_delay(level))


def arrivals_arguments(queue: str) -> dict[str, object]:
    """Return the arguments of the arrivals queue of ``queue``.

    A server moves what arrives into ``queue``, at once, and again each moment while it is full or its node is away.
    Without a server, RabbitMQ does it after a minute; if that fails, it tries again after three.
    """
    return _handing_on(_ARRIVALS_WAIT, "") | {
        "x-dead-letter-routing-key": queue,
        # A server that stops requeues what it has not moved.
        "x-delivery-limit": MOST_DELIVERIES,
    }


def abandoned_arguments() -> dict[str, object]:
    """Return the arguments of the queue of unrouted messages: it keeps them, and hands nothing on.

    With dead lettering, RabbitMQ would offer 32 of them again and again, and none that is behind these:
    docs/decisions/0007-tasks.md.
    """
    return dead_letter_arguments({"x-queue-type": "quorum"})


def _handing_on(milliseconds: int, exchange: str) -> dict[str, object]:
    return {
        "x-queue-type": "quorum",
        "x-message-ttl": milliseconds,
        "x-dead-letter-exchange": exchange,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


@functools.lru_cache(maxsize=1024)
def split_call(target: str, queue: str | None = None) -> tuple[str, str]:
    """Return the queue and the function that a call's target names; the queue is the service's, or the given one.

    Example:
        >>> split_call("fib"), split_call("billing.charge")
        (('rpc_queue', 'fib'), ('rpc_queue.billing', 'charge'))

    Raises:
        ConfigurationError: It names no function, or a name is too long for AMQP.
    """
    service, dot, function = target.rpartition(".")
    if not function or (dot and not service):
        raise ConfigurationError(f'{target!r} names no function: "fib", or "billing.charge" for a service\'s')
    if queue is None:
        queue = call_queue(service) if dot else CALL_QUEUE
    return check_name(queue), check_name(function)


def check_name(name: str) -> str:
    """Return a name of a queue or a function that a message can carry.

    Raises:
        ConfigurationError: It is empty, or too long for AMQP, or no text.
    """
    try:
        size = len(name.encode())
    except (AttributeError, UnicodeEncodeError) as error:
        raise ConfigurationError(f"{name!r} is no text that AMQP can carry: {error}") from error
    if not size:
        raise ConfigurationError("a name of a queue or a function is not empty")
    if size > LONGEST_NAME:
        raise ConfigurationError(f"{name[:40]!r}…: a name in AMQP has at most {LONGEST_NAME} bytes")
    return name


def check_task_queue(queue: str) -> None:
    """Raise `ConfigurationError` for a task queue's name that is empty, too long, no text, or means another queue."""
    try:
        size = len(queue.encode())
    except (AttributeError, UnicodeEncodeError):
        size = 0
    taken = size and (holds_calls(queue) or is_taken(queue))
    if taken or not 0 < size <= LONGEST_DELAYED_NAME:
        raise ConfigurationError(
            f"{queue!r} can't name a task queue: it is text, not empty, has at most {LONGEST_DELAYED_NAME} bytes, "
            f"does not begin with {CALL_QUEUE!r}, which holds calls, 'amq.' or 'amqp_rpc.', and does not end "
            f"with {dead_letter_queue('')!r}"
        )


def is_taken(queue: str) -> bool:
    """Return whether a name is one of the broker's, one of ours, or a dead-letter queue's."""
    return queue.startswith(("amq.", "amqp_rpc.")) or holds_dead_letters(queue)


def pattern(name: str) -> str:
    r"""Return the regular expression of a name for RabbitMQ's permissions; one for all names that differ by chance.

    Example:
        >>> print(pattern("thumbs.dead"), pattern("amqp_rpc.delay.03"), pattern("amq.gen-x7Zq"))
        thumbs\.dead amqp_rpc\.delay\.\d\d amq\.gen-.*
    """
    if named_by_broker(name):
        return _escaped(NAMED_BY_BROKER) + ".*"
    if _LEVEL.fullmatch(name):
        return _escaped(f"{DELAY}.") + r"\d\d"
    if fleeting(name):
        return _escaped(_UNIQUE) + ".*"
    if of_instance(name):
        return _escaped(name.rpartition(".")[0] + ".") + ".*"
    return _escaped(name)


def _escaped(name: str) -> str:
    return _SPECIAL.sub(r"\\\g<0>", name)
