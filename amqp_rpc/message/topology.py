"""Names on the broker, with the arguments of queues and the keys of bindings: all of them come from here. Pure.

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

from amqp_rpc.errors import ConfigurationError

#: The queue of a service without a name: the one that RabbitMQ's tutorials use.
CALL_QUEUE = "rpc_queue"

#: The task queue of a service without a name: again the one that RabbitMQ's tutorials use.
TASK_QUEUE = "task_queue"

#: How the levels of delay begin, and the exchange behind all of them, to which task queues are bound.
DELAY = "amqp_rpc.delay"
ARRIVALS = f"{DELAY}.arrivals"

#: Where what no queue is bound for when its delay is over waits until there is one: an exchange and its queue.
UNROUTED = f"{DELAY}.unrouted"

#: The exchange of events, unless another one is named.
EVENTS = "amqp_rpc.events"

#: How the queues begin by which what was delayed arrives in another one.
_ARRIVALS_QUEUE = "amqp_rpc.arrivals."

#: How the queues of single instances begin, and where what is tried again for one goes as well: nothing stays there.
_INSTANCE = "amqp_rpc.instance"
GONE = "amqp_rpc.gone"

#: How the queues of keys begin, which are not enqueued twice.
_UNIQUE = "amqp_rpc.unique."

#: How the queues of receipts begin: of items that are done.
_RECEIPTS = "amqp_rpc.receipts."

#: How the names of direct reply-to begin: https://www.rabbitmq.com/docs/direct-reply-to
DIRECT_REPLY_TO = "amq.rabbitmq.reply-to."

#: How often a dead letter may be looked at: the largest number that AMQP has in 32 bits.
MOST_DELIVERIES = 2**31 - 1

#: Bytes of a name or a routing key: AMQP 0-9-1 counts them in one octet.
LONGEST_NAME = 255

#: Seconds of level 0: delays are rounded up to a multiple of it, and a task comes no earlier.
UNIT = 0.1
#: Levels: the longest delay is 2^28 - 1 units, 310 days.
LEVELS = 28
#: Bytes of the name of a queue that can have delays: the rest of a routing key is bits and dots.
LONGEST_DELAYED_NAME = LONGEST_NAME - 2 * LEVELS
#: The longest delay in seconds.
LONGEST_DELAY = (2**LEVELS - 1) * UNIT


def call_queue(service: str | None = None) -> str:
    """Return the queue that holds the calls of a service.

    Example:
        >>> call_queue(), call_queue("billing")
        ('rpc_queue', 'rpc_queue.billing')
    """
    return CALL_QUEUE if service is None else f"{CALL_QUEUE}.{service}"


def holds_calls(queue: str) -> bool:
    """Return whether a queue's name is one of those for calls."""
    return queue == CALL_QUEUE or queue.startswith(f"{CALL_QUEUE}.")


def dead_letter_queue(queue: str) -> str:
    """Return the queue where messages of ``queue`` go that nobody can answer: ``rpc_queue.dead``."""
    return f"{queue}.dead"


def lasting(what: str) -> str:
    """Return the exchange that says that something is there for longer than a moment; it routes nothing.

    Args:
        what: A queue, which stands for that of its dead letters as well, or that by which its delayed tasks arrive, or
            "delay" for all levels of delay.
    """
    return f"amqp_rpc.lasting.{what.removesuffix(dead_letter_queue(''))}"


def holds_dead_letters(queue: str) -> bool:
    """Return whether a queue's name is one of those for dead letters."""
    return queue.endswith(dead_letter_queue(""))


def task_queue(service: str | None = None) -> str:
    """Return the queue that holds the tasks of a service, where they name no other.

    Example:
        >>> task_queue(), task_queue("billing")
        ('task_queue', 'task_queue.billing')
    """
    return TASK_QUEUE if service is None else f"{TASK_QUEUE}.{service}"


def event_queue(service: str | None, function: str) -> str:
    """Return the queue of a subscription, where it names no other.

    Example:
        >>> event_queue("mail", "thank"), event_queue(None, "thank")
        ('events.mail.thank', 'events.thank')
    """
    return f"events.{function}" if service is None else f"events.{service}.{function}"


def instance_queue(queue: str, token: str) -> str:
    """Return the queue of one instance of a subscription of which every instance gets each event."""
    return f"{_INSTANCE}.{queue}.{token}"


def of_instance(queue: str) -> bool:
    """Return whether a queue is one instance's: it alone declares it, and takes it with it."""
    return queue.startswith(f"{_INSTANCE}.")


def of_instances() -> str:
    """Return the pattern of what instances' queues are named."""
    return f"{_INSTANCE}.#"


def gone_arguments() -> dict[str, object]:
    """Return the arguments of the queue `GONE`: it drops what comes."""
    return {"x-max-length": 0}


def bindings_record(queue: str) -> str:
    """Return the queue that holds what a subscription's queue was bound to."""
    return f"amqp_rpc.bindings.{queue}"


def record_arguments() -> dict[str, object]:
    """Return the arguments of such a queue: it holds one message, the last one."""
    return {"x-max-length": 1}


def clock_queue(service: str | None = None) -> str:
    """Return the queue whose token is the clock of a service's schedules: ``amqp_rpc.clock.billing``."""
    return "amqp_rpc.clock" if service is None else f"amqp_rpc.clock.{service}"


def clock_arguments() -> dict[str, object]:
    """Return the arguments of a clock's queue: one consumer at a time is active, the others stand by.

    https://www.rabbitmq.com/docs/consumers#single-active-consumer
    """
    return {"x-queue-type": "quorum", "x-single-active-consumer": True}


def delay(level: int) -> str:
    """Return the name of a level of delay, which is an exchange's and a queue's: see `delays`."""
    return f"{DELAY}.{level:02d}"


def arrivals_queue(queue: str) -> str:
    """Return the queue by which what was delayed arrives in ``queue``: ``amqp_rpc.arrivals.thumbnails``."""
    return f"{_ARRIVALS_QUEUE}{queue}"


def holds_arrivals(queue: str) -> bool:
    """Return whether a queue's name is one of those by which others' delayed tasks arrive."""
    return queue.startswith(_ARRIVALS_QUEUE)


def comes_back(exchange: str) -> bool:
    """Return whether what came by an exchange is a copy that went back to its queue: delayed, or put there itself."""
    return not exchange or exchange.startswith(f"{DELAY}.")


def after_delay(level: int) -> str:
    """Return the exchange to which a level of delay hands on."""
    return delay(level - 1) if level else ARRIVALS


def task_arguments(
    queue_type: str, *, max_length: int | None = None, max_priority: int | None = None
) -> dict[str, object]:
    """Return the arguments with which a task queue is declared.

    No more than the type unless asked for, as in RabbitMQ's tutorials, so that their programs may declare the same
    queue.

    Args:
        queue_type: ``"quorum"`` or ``"classic"``.
        max_length: Tasks that may wait in it; the broker refuses more.
        max_priority: The highest priority that a classic queue tells apart.
    """
    arguments: dict[str, object] = {"x-queue-type": queue_type} if queue_type == "quorum" else {}
    if max_length is not None:
        arguments |= {"x-max-length": max_length, "x-overflow": "reject-publish"}
    if max_priority is not None:
        arguments |= {"x-max-priority": max_priority}
    return arguments


def dead_letter_arguments(queue_arguments: dict[str, object]) -> dict[str, object]:
    """Return the arguments of the queue of dead letters of a queue: it is kept in the same way, and has no bound.

    A quorum queue counts how often it got a message back, and from RabbitMQ 4.0 on drops it the 21st time: who looks at
    dead letters gives them back. So the count has no bound either, and the largest number is one that every version
    takes: https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling
    """
    quorum = queue_arguments.get("x-queue-type") == "quorum"
    return {"x-queue-type": "quorum", "x-delivery-limit": MOST_DELIVERIES} if quorum else {}


def item_arguments(queue_type: str, *, maxsize: int = 0) -> dict[str, object]:
    """Return the arguments of a queue between processes: see `queues`.

    Its items go back to it whenever a taker ends with some: a quorum queue that counted that would drop an item in the
    end, so the count has no bound, as for dead letters.

    Args:
        queue_type: ``"quorum"`` or ``"classic"``.
        maxsize: Items that may wait in it; the broker refuses more. 0 for no bound.
    """
    arguments = task_arguments(queue_type, max_length=maxsize or None)
    return arguments | ({"x-delivery-limit": MOST_DELIVERIES} if queue_type == "quorum" else {})


def receipts_queue(identity: str) -> str:
    """Return the queue over which a client hears which of its items are done: ``amqp_rpc.receipts.<identity>``."""
    return f"{_RECEIPTS}{identity}"


def holds_receipts(queue: str) -> bool:
    """Return whether a queue's name is one of those for receipts."""
    return queue.startswith(_RECEIPTS)


def receipts_arguments() -> dict[str, object]:
    """Return the arguments of a queue of receipts: it outlives its client's connection by ten minutes."""
    return {"x-expires": 600_000}


def unique(queue: str, key: bytes, seconds: float) -> str:
    """Return the queue whose one place a key takes for so many seconds."""
    digest = hashlib.sha256(b"\0".join((queue.encode(), str(float(seconds)).encode(), key))).hexdigest()
    return f"{_UNIQUE}{digest[:40]}"


def fleeting(queue: str) -> bool:
    """Return whether a queue is one that need not survive."""
    return queue.startswith(_UNIQUE)


def unique_arguments(seconds: float) -> dict[str, object]:
    """Return the arguments of a key's queue: it has one place, takes no second message, and goes when it is over.

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


def delay_arguments(level: int, *, unit: float) -> dict[str, object]:
    """Return the arguments of a level's queue: it hands every message on after 2^level units, and loses none.

    At-least-once dead lettering needs all three last ones: https://www.rabbitmq.com/docs/quorum-queues#dead-lettering
    """
    return _handing_on(round(2**level * unit * 1000), after_delay(level))


def arrivals_arguments(queue: str) -> dict[str, object]:
    """Return the arguments of the queue by which delayed tasks arrive in ``queue``: it hands on at once."""
    return _handing_on(0, "") | {"x-dead-letter-routing-key": queue}


def unrouted_arguments() -> dict[str, object]:
    """Return the arguments of the queue that has what is unrouted try again: the first time after a second.

    The broker notes that: what comes by a second time would go in a circle, and is held, and tried by the broker itself
    until there is another way (tried with RabbitMQ 3.10, 4.0 and 4.3; by default every three minutes).
    """
    return _handing_on(1000, ARRIVALS)


def _handing_on(milliseconds: int, exchange: str) -> dict[str, object]:
    return {
        "x-queue-type": "quorum",
        "x-message-ttl": milliseconds,
        "x-dead-letter-exchange": exchange,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


def units(seconds: float) -> int:
    """Return a delay in units: never less than was asked for.

    Raises:
        ConfigurationError: It is negative, no number, or longer than `LONGEST_DELAY`.

    Example:
        >>> units(0.25), units(30)
        (3, 300)
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= LONGEST_DELAY:
        raise ConfigurationError(
            f"a delay is a number of seconds from 0 to {LONGEST_DELAY:.0f} (310 days), not {seconds!r}"
        )
    # Rounded first: 0.3 / 0.1 is a little more than 3 in binary.
    return math.ceil(round(seconds / UNIT, 6))


def highest_level(count: int) -> int:
    """Return the level at which a delay of so many units begins."""
    return max(0, count.bit_length() - 1)


def delayed_key(count: int, queue: str) -> str:
    """Return the routing key of a message for ``queue`` in so many units: its bits, from the highest, and the name.

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


def held_binding(level: int) -> str:
    """Return the binding of what a level holds: its bit is set."""
    return _binding(level, "1")


def passed_binding(level: int) -> str:
    """Return the binding of what passes a level at once: its bit is not set."""
    return _binding(level, "0")


def arrived_binding(queue: str) -> str:
    """Return the binding of what has passed all levels and is for ``queue``."""
    return ".".join(["*"] * LEVELS) + f".{queue}"


def _binding(level: int, bit: str) -> str:
    return ".".join([*["*"] * (LEVELS - 1 - level), bit, "#"])


@functools.lru_cache(maxsize=1024)
def split_call(target: str) -> tuple[str, str]:
    """Return the queue and the function that a call's target names.

    Example:
        >>> split_call("fib"), split_call("billing.charge")
        (('rpc_queue', 'fib'), ('rpc_queue.billing', 'charge'))

    Raises:
        ConfigurationError: It names no function, or a name is too long for AMQP.
    """
    service, dot, function = target.rpartition(".")
    try:
        target.encode()
    except UnicodeEncodeError as error:
        raise ConfigurationError(f"{target!r} is no text that AMQP can carry: {error}") from error
    if not function or (dot and not service):
        raise ConfigurationError(f'{target!r} names no function: "fib", or "billing.charge" for a service\'s')
    queue = call_queue(service) if dot else CALL_QUEUE
    if len(queue.encode()) > LONGEST_NAME or len(function.encode()) > LONGEST_NAME:
        raise ConfigurationError(f"{target[:40]!r}…: a name in AMQP has at most {LONGEST_NAME} bytes")
    return queue, function
