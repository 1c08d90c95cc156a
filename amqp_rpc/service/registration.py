"""A registered function: what a service says of it, its name, and the mark by which the function object is known."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from amqp_rpc.errors import ConfigurationError
from amqp_rpc.message.topology import LONGEST_NAME, call_queue
from amqp_rpc.service.policy import Policy
from amqp_rpc.service.signature import Options, Signature
from amqp_rpc.service.subscription import Subscription

#: The attributes by which `Client.call(fib, 30)` and `Client.enqueue` find what the object is called on the wire.
_MARK = "__amqp_rpc__"
_TASK_MARK = "__amqp_rpc_task__"


@dataclass(frozen=True, slots=True)
class Function:
    """A registered function and what the service says of it."""

    name: str
    service: str | None
    call: Callable[..., Any]
    signature: Signature
    idempotent: bool
    default: bool
    asynchronous: bool
    #: What becomes of its tasks; None for one that is called.
    task: Policy | None = None
    #: Where its events come from; None for one that takes none. Its policy is as a task's.
    subscription: Subscription | None = None

    @property
    def queue(self) -> str:
        """The queue that holds its calls, its tasks, or its events."""
        return call_queue(self.service) if self.task is None else self.task.queue

    @property
    def shared(self) -> bool:
        """Whether it takes events from a queue that stays, which all replicas of its service share."""
        return self.subscription is not None and self.subscription.mode == "shared"


def named(
    function: Callable[..., Any],
    name: str | None,
    decorator: str,
    *,
    reserved: Options,
    kind: type[Signature] = Signature,
) -> tuple[str, Signature]:
    """Return the name and the signature under which a function is registered.

    Args:
        function: Which.
        name: What clients call it; None takes its own.
        decorator: Which registers it, for errors.
        reserved: The parameters that it can't have.
        kind: Of the signature.

    Raises:
        ConfigurationError: It is no function, or has no name that can be sent.
    """
    if not callable(function) or isinstance(function, type):
        raise ConfigurationError(f"{decorator} takes a function, not {function!r}")
    name = name if name is not None else getattr(function, "__name__", "")
    signature = kind(function, name, reserved)
    if not name or "." in name or too_long(name):
        raise ConfigurationError(
            f"{signature.where}: {name!r} can't name a function: it has no dot, is not empty and has at most "
            f"{LONGEST_NAME} bytes"
        )
    return name, signature


def mark(function: Callable[..., Any], registered: Function) -> None:
    """Have a function object say what it is called by."""
    _mark(function, _MARK, registered)


def mark_task(function: Callable[..., Any], registered: Function) -> None:
    """Have a function object say what it is enqueued by."""
    _mark(function, _TASK_MARK, registered)


def _mark(function: Callable[..., Any], mark: str, registered: Function) -> None:
    # The first registration names the function object; later ones are called by their names as text. A wrapper
    # brings the mark of what it wraps (functools.wraps), and is another function. A bound method can't be marked.
    if getattr(getattr(function, mark, None), "call", None) is not function:
        with contextlib.suppress(AttributeError, TypeError):
            setattr(function, mark, registered)


def too_long(name: str) -> bool:
    """Return whether AMQP has no room for a name."""
    return len(name.encode()) > LONGEST_NAME


def registered(function: Callable[..., Any]) -> Function:
    """Return what a function object was registered as.

    Raises:
        ConfigurationError: It was not registered with ``@service.rpc``.
    """
    found = getattr(function, _MARK, None)
    if not isinstance(found, Function):
        raise ConfigurationError(
            f"{getattr(function, '__qualname__', function)!r} is not registered with any service; decorate it with "
            "@service.rpc, or call it by its name as text"
        )
    return found


def registered_task(function: Callable[..., Any]) -> Function:
    """Return what a function object was registered as with ``@service.task``.

    Raises:
        ConfigurationError: It was not.
    """
    found = getattr(function, _TASK_MARK, None)
    if not isinstance(found, Function):
        raise ConfigurationError(
            f"{getattr(function, '__qualname__', function)!r} is no task of any service; decorate it with "
            "@service.task, or enqueue it by its name as text"
        )
    return found
