"""A registered function: its name, its signature and its options. Pure."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from weakref import WeakValueDictionary

from amqp_rpc.errors import ConfigurationError, InvalidArguments
from amqp_rpc.message.exchanges import Binding, Exchange
from amqp_rpc.message.topology import LONGEST_NAME
from amqp_rpc.service.context import Authorize
from amqp_rpc.service.other_libraries import hint
from amqp_rpc.service.policy import CallQueue, Policy
from amqp_rpc.service.signature import Options, Signature, annotated, where

#: Each event goes to one of a service's replicas, or to all.
Mode = Literal["shared", "broadcast"]

#: The attributes by which `Client.call(fib, 30)` and `Client.enqueue` find the registration of a function object.
_MARK = "__amqp_rpc__"
_TASK_MARK = "__amqp_rpc_task__"


@dataclass(frozen=True, slots=True)
class Subscription:
    """The events that a function handles, and whether one replica of its service gets each, or all."""

    exchange: Exchange
    bindings: tuple[Binding, ...]
    mode: Mode

    def __str__(self) -> str:
        """Return it as a banner shows it: ``orders.*.paid``."""
        return ", ".join(binding.key or _compared(binding) or "everything" for binding in self.bindings)


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Function:
    """A function as it was registered: to be called, as a task, or for events."""

    name: str
    service: str | None
    call: Callable[..., Any]
    signature: Signature
    #: True: it may run more than once with the same arguments.
    idempotent: bool = True
    #: True: it takes plain text bodies that name no function.
    default: bool = False
    #: The queue of its calls; None for a task and for events.
    calls: CallQueue | None = None
    #: Its queue and retries; None for a function that is called.
    task: Policy | None = None
    #: The events that it handles; it has a policy too, as a task has. None for all others.
    subscription: Subscription | None = None
    #: Decides whether it runs for a sender; None: it runs for all.
    authorize: Authorize | None = None
    #: True for an ``async def`` function.
    asynchronous: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "asynchronous", _is(inspect.iscoroutinefunction, self.call))
        if self.authorize is not None and (
            not callable(self.authorize) or _is(inspect.iscoroutinefunction, self.authorize)
        ):
            raise ConfigurationError(
                f"{self.signature.where}: authorize= of {self.name}() is an ordinary function that takes a Context and "
                f"returns True or False, not {self.authorize!r}"
            )

    @property
    def queue(self) -> str:
        """The queue that holds its calls, its tasks, or its events."""
        if self.task is not None:
            return self.task.queue
        assert self.calls is not None
        return self.calls.name

    @property
    def queue_arguments(self) -> dict[str, Any] | None:
        """The arguments of the declaration of its queue; None if another program declares it."""
        if self.task is not None:
            return self.task.queue_arguments
        assert self.calls is not None
        return self.calls.arguments

    @property
    def shared(self) -> bool:
        """True if it handles events from a durable queue that all replicas of its service share."""
        return self.subscription is not None and self.subscription.mode == "shared"

    def check(self, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        """Check arguments that are about to be sent: see `Signature.check`.

        Raises:
            InvalidArguments: The function can't be called with them; it says which option was perhaps meant.
        """
        try:
            self.signature.check(args, kwargs)
        except InvalidArguments as error:
            advice = hint(kwargs, self.signature.names, task=self.task is not None)
            raise InvalidArguments(f"{error}. Nothing was sent{advice}") from None

    def mark(self) -> None:
        """Have the function object remember its registration.

        The first registration names the object; with a later one it is called by its name as text.
        """
        mark = _MARK if self.task is None else _TASK_MARK
        # Access through the class returns the function in a staticmethod.
        marked = self.call.__func__ if isinstance(self.call, staticmethod) else self.call
        # A wrapper has the mark of the function that it wraps (functools.wraps), and is another function.
        if getattr(getattr(marked, mark, None), "call", None) is self.call:
            return
        try:
            setattr(marked, mark, self)
        # A bound method can't be marked. Each access makes a new one, and all are equal.
        except (AttributeError, TypeError):
            # Of two that are equal the first is known; one without a hash is called by its name.
            with contextlib.suppress(TypeError):
                _UNMARKED.setdefault((mark, marked), self)


#: The registrations of what can't be marked, such as bound methods: by the mark and the callable.
_UNMARKED: WeakValueDictionary[tuple[str, Any], Function] = WeakValueDictionary()


def signed(
    function: Any,
    name: str | None,
    decorator: str,
    reserved: Options,
    kind: type[Signature] = Signature,
    *,
    returns: bool = True,
) -> Signature:
    """Return the signature of a function for its name, or for the one that it is given; ``returns``: it sends a result.

    Raises:
        ConfigurationError: It is no function, or has no name that can be sent, or a parameter has a reserved name.
    """
    if isinstance(function, classmethod):
        raise ConfigurationError(
            f"{where(function.__func__)}: {decorator} can't take a classmethod in the class's body, which is no class "
            f"yet; register it below the class: {_below(decorator, function.__func__)}"
        )
    if not callable(function) or isinstance(function, type):
        raise ConfigurationError(f"{decorator} takes a function, not {function!r}")
    source = annotated(function)
    if name is None:
        name = getattr(function if hasattr(function, "__name__") else source, "__name__", "")
        if name == "__call__":
            raise ConfigurationError(
                f"{where(function)}: {decorator} needs a name for an object of class {type(function).__qualname__}: "
                "name='…'"
            )
    if _needs_object(function):
        raise ConfigurationError(
            f"{where(function)}: {name}() is a method in a class's body, and no caller can send its first argument; "
            f"register the method of an object, or of the class, below it: {_below(decorator, function)}"
        )
    if _is(inspect.isgeneratorfunction, function) or _is(inspect.isasyncgenfunction, function):
        raise ConfigurationError(
            f"{where(function)}: {name}() is a generator function (it has a yield), and streams are not supported yet: "
            "return a list, or leave the yield out"
        )
    signature = kind(function, name, reserved, returns=returns)
    if not name or "." in name or too_long(name):
        raise ConfigurationError(
            f"{signature.where}: {name!r} can't name a function: it has no dot, is not empty and has at most "
            f"{LONGEST_NAME} bytes"
        )
    return signature


def _needs_object(function: Any) -> bool:
    """Return whether it is a method that its class's body has registered: it takes ``self``, or ``cls``."""
    around = function.__qualname__.rpartition(".")[0] if inspect.isfunction(function) else ""
    if not around or around.endswith("<locals>"):
        return False
    first = function.__code__.co_varnames[: min(1, function.__code__.co_argcount)]
    return first in (("self",), ("cls",))


def _below(decorator: str, method: Any) -> str:
    """Return how a method is registered below its class."""
    return f"{decorator.removeprefix('@')}(….{method.__name__})"


def _is(kind: Callable[[Any], bool], function: Any) -> bool:
    """Return whether a function, or the ``__call__`` of another callable, is of a kind."""
    return kind(function) or kind(type(function).__call__)


def too_long(name: str) -> bool:
    """Return whether AMQP has no room for a name."""
    return len(name.encode()) > LONGEST_NAME


def registered(function: object) -> Function:
    """Return the registration of a function object.

    Raises:
        ConfigurationError: It was not registered with ``@service.rpc``.
    """
    if (found := _marked(function, _MARK)) is not None:
        return found
    name = _shown(function)
    if _marked(function, _TASK_MARK) is not None:
        raise ConfigurationError(f"{name!r} is a task: client.enqueue({name}, …) enqueues it")
    raise ConfigurationError(
        f"{name!r} is not registered with any service; decorate it with @service.rpc, or call it by its name as text"
    )


def registered_task(function: object) -> Function:
    """Return the registration of a task's function object.

    Raises:
        ConfigurationError: It was not registered with ``@service.task``.
    """
    if (found := _marked(function, _TASK_MARK)) is not None:
        return found
    name = _shown(function)
    if _marked(function, _MARK) is not None:
        raise ConfigurationError(
            f"{name!r} is no task: client.call({name}, …) calls it; @service.task makes a task of a function"
        )
    raise ConfigurationError(
        f"{name!r} is no task of any service; decorate it with @service.task, or enqueue it by its name as text"
    )


def _marked(function: object, mark: str) -> Function | None:
    # The attributes of a bound method are those of its function.
    found = None if inspect.ismethod(function) else getattr(function, mark, None)
    if isinstance(found, Function):
        return found
    try:
        return _UNMARKED.get((mark, function))
    except TypeError:
        return None


def _shown(function: object) -> str:
    return str(getattr(function, "__qualname__", function))


def _compared(binding: Binding) -> str:
    return ", ".join(f"{name}={value}" for name, value in binding.arguments)
