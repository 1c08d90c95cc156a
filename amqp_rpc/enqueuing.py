"""What a task becomes on its way to its queue: its message, and what must be declared for it."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

from amqp_rpc import codec, topology
from amqp_rpc.codec import MSGPACK
from amqp_rpc.delays import units
from amqp_rpc.envelope import Message, task_properties
from amqp_rpc.errors import ConfigurationError
from amqp_rpc.outbox import Publication
from amqp_rpc.service import Function, registered_task


def publication(
    identity: str,
    function: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    queue: str | None,
    delay: float | None,
    eta: datetime | None,
    expires: float | None,
    timeout: float,
    limit: int,
) -> tuple[Publication, Function | None]:
    """Return a task ready to be published, and its registration where the object was given.

    Args:
        identity: The task's id.
        function: A name, or a function that was registered with ``@service.task``.
        args: Positional arguments.
        kwargs: Named arguments.
        queue: Which holds it; None takes the function's own.
        delay: Seconds until a worker may take it.
        eta: When a worker may take it; not both.
        expires: Seconds after which it is not started any more.
        timeout: Seconds for the broker to take it.
        limit: Bytes of a body at most.

    Raises:
        ConfigurationError: The function or a time makes no sense.
        Unencodable, MessageTooLarge: The arguments can't be sent.
    """
    name, target, arguments, known = _target(function, queue)
    now = time.time()
    if delay is not None and eta is not None:
        raise ConfigurationError("delay= and eta= say the same in two ways; give one of them")
    if eta is not None:
        if eta.tzinfo is None:
            raise ConfigurationError(f"eta has no time zone: {eta!r}; datetime.now(UTC) + … has one")
        delay = max(0.0, eta.timestamp() - now)
    if expires is not None and not expires > 0:
        raise ConfigurationError(f"expires is a number of seconds above 0, not {expires!r}")
    body = codec.encode([args, kwargs], MSGPACK, limit=limit)
    properties = task_properties(
        function=name, identity=identity, expires=None if expires is None else now + expires, now=now
    )
    message = Message(target, properties, body, units(delay) if delay else 0)
    made = Publication(
        message,
        arguments,
        guessed=known is None or target != known.queue,
        timeout=timeout,
        expires_at=time.monotonic() + timeout,
    )
    return made, known


def _target(function: Any, queue: str | None) -> tuple[str, str, dict[str, Any], Function | None]:
    """Return a function's name, its queue, the queue's arguments, and its registration where the object was given."""
    if isinstance(function, str):
        service, dot, name = function.rpartition(".")
        if not name or (dot and not service):
            raise ConfigurationError(f'{function!r} names no task: "resize", or "images.resize" for a service\'s')
        return name, queue or topology.task_queue(service or None), topology.task_arguments("quorum"), None
    if callable(function):
        known = registered_task(function)
        assert known.task is not None
        return known.name, queue or known.queue, known.task.queue_arguments, known
    raise ConfigurationError(f"enqueue takes a task's name or a registered function, not {function!r}")
