"""What a task becomes on its way to its queue: its message, and what must be declared for it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from amqp_rpc.amqp.outbox import Publication
from amqp_rpc.errors import ConfigurationError
from amqp_rpc.message import codec, topology
from amqp_rpc.message.codec import MSGPACK
from amqp_rpc.message.envelope import Message, Properties, task_properties
from amqp_rpc.message.settings import LONGEST_EXPIRES, positive
from amqp_rpc.message.topology import units
from amqp_rpc.service.function import Function, registered_task
from amqp_rpc.service.policy import check_priority, check_task_queue

#: The longest time for which a key may be taken: a time to live has at most 32 bits of milliseconds.
LONGEST_UNIQUE = 40 * 86_400.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How the tasks of a function are enqueued, as one call of the client says.

    Args:
        function: Its name.
        queue: Which holds them.
        arguments: Those with which the queue is declared.
        guessed: Whether these are a guess.
        known: The function's registration, where the object was given.
        delay: Units of `delays` until a worker may take one.
        eta: When a worker may take one; None for no such time.
        expires: Seconds after which one is not started any more; None for never.
        priority: From 0 to 9; None for none.
        result: Whether somebody is told what becomes of one.
    """

    function: str
    queue: str
    arguments: dict[str, Any]
    guessed: bool
    known: Function | None
    delay: int
    eta: datetime | None
    expires: float | None
    priority: int | None
    result: bool = True

    def publication(self, identity: str, body: bytes, *, timeout: float) -> Publication:
        """Return a task that is ready to be published.

        Args:
            identity: Its id.
            body: Its arguments, encoded.
            timeout: Seconds for the broker to take it.
        """
        now = time.time()
        properties = task_properties(
            function=self.function,
            identity=identity,
            expires=None if self.expires is None else now + self.expires,
            now=now,
            priority=self.priority,
        )
        delay = self.delay if self.eta is None else units(max(0.0, self.eta.timestamp() - now))
        return Publication(
            Message(self.queue, properties, body, delay),
            self.arguments,
            guessed=self.guessed,
            timeout=timeout,
            expires_at=time.monotonic() + timeout,
            replied=self.result,
        )


def plan(
    function: Any,
    *,
    queue: str | None = None,
    delay: float | None = None,
    eta: datetime | None = None,
    expires: float | None = None,
    priority: int | None = None,
) -> Plan:
    """Return how tasks are enqueued.

    Args:
        function: A name, or a function that was registered with ``@service.task``.
        queue: Which holds them; None takes the function's own.
        delay: Seconds until a worker may take one.
        eta: When a worker may take one; not both.
        expires: Seconds after which one is not started any more.
        priority: From 0 to 9; None takes the function's own.

    Raises:
        ConfigurationError: The function, the queue's name, a time or the priority makes no sense; or no worker could
            begin one before it expires.
    """
    if delay is not None and eta is not None:
        raise ConfigurationError("delay= and eta= say the same in two ways; give one of them")
    if eta is not None and eta.tzinfo is None:
        raise ConfigurationError(f"eta has no time zone: {eta!r}; datetime.now(UTC) + … has one")
    if expires is not None:
        positive("expires", expires, most=LONGEST_EXPIRES)
    check_priority(priority)
    held = 0 if delay is None else units(delay)
    _check_begins((delay or 0.0) if eta is None else eta.timestamp() - time.time(), expires)
    if isinstance(function, str):
        service, dot, name = function.rpartition(".")
        if not name or (dot and not service):
            raise ConfigurationError(f'{function!r} names no task: "resize", or "images.resize" for a service\'s')
        target = queue or topology.task_queue(service or None)
        _check_names(target, name)
        return Plan(name, target, topology.task_arguments("quorum"), True, None, held, eta, expires, priority)
    if not callable(function):
        raise ConfigurationError(f"enqueue takes a task's name or a registered function, not {function!r}")
    known = registered_task(function)
    assert known.task is not None
    target = queue or known.queue
    _check_names(target, known.name)
    own = known.task.priority if priority is None else priority
    guessed = target != known.queue
    return Plan(
        known.name, target, known.task.queue_arguments, guessed, known, held, eta, expires, own, known.task.result
    )


def _check_begins(seconds: float, expires: float | None) -> None:
    if expires is not None and seconds > expires:
        raise ConfigurationError(
            f"no worker may take it before {seconds:g} s have passed, and after {expires:g} s none starts it any more "
            "(expires=): it would never run, only become a dead letter. expires= counts from now, not from the delay's "
            "end; give a longer one, or a shorter delay= or earlier eta="
        )


def _check_names(queue: str, function: str) -> None:
    """Check them here: one that AMQP can't carry would end the connection, each time that it is written."""
    check_task_queue(queue)
    try:
        size = len(function.encode())
    except UnicodeEncodeError as error:
        raise ConfigurationError(f"{function!r} is no text that AMQP can carry: {error}") from error
    if size > topology.LONGEST_NAME:
        raise ConfigurationError(f"{function[:40]!r}…: a name in AMQP has at most {topology.LONGEST_NAME} bytes")


def encoded(args: Any, kwargs: Any, *, limit: int) -> bytes:
    """Return the body of a task.

    Raises:
        Unencodable, MessageTooLarge: The arguments can't be sent.
    """
    return codec.encode([args, kwargs], MSGPACK, limit=limit)


def default_key(args: Any, kwargs: dict[str, Any], *, limit: int) -> bytes:
    """Return the key of a task that has none of its own: its arguments, whatever the order of the named ones.

    Raises:
        Unencodable, MessageTooLarge: The arguments can't be sent.
    """
    return encoded(args, dict(sorted(kwargs.items())), limit=limit)


def claim(plan: Plan, identity: str, key: bytes, seconds: float, *, timeout: float) -> Publication:
    """Return the message that takes a key for so many seconds; the broker refuses it where the key is taken.

    Args:
        plan: Of the task that has the key.
        identity: An id of its own.
        key: What makes two tasks the same.
        seconds: How long it is taken.
        timeout: Seconds for the broker to answer.

    Raises:
        ConfigurationError: The time is not above 0, or longer than `LONGEST_UNIQUE`.
    """
    positive("unique_for", seconds, most=LONGEST_UNIQUE)
    return Publication(
        Message(topology.unique(plan.queue, key, seconds), Properties(delivery_mode=2, message_id=identity), b""),
        topology.unique_arguments(seconds),
        timeout=timeout,
        expires_at=time.monotonic() + timeout,
        once=True,
        replied=False,
    )
