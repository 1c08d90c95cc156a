"""A service: a passive list of functions. Importing one opens no socket and starts no thread."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from amqp_rpc.errors import ConfigurationError
from amqp_rpc.signature import Signature
from amqp_rpc.topology import CALL_QUEUE, LONGEST_NAME, call_queue, dead_letter_queue

F = TypeVar("F", bound=Callable[..., Any])

#: The attribute by which `Client.call(fib, 30)` finds what the function object is called on the wire.
_MARK = "__amqp_rpc__"


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

    @property
    def queue(self) -> str:
        """The queue that holds its calls."""
        return call_queue(self.service)


class Service:
    """A list of functions that a server runs and clients call.

    Args:
        name: None: its queue is ``rpc_queue``, and clients call ``"fib"``. ``"billing"``: its queue is
            ``rpc_queue.billing``, and clients call ``"billing.charge"``.

    Raises:
        ConfigurationError: The name is empty, has a dot, or is too long for AMQP.

    Example:
        >>> service = Service()
        >>> @service.rpc
        ... def double(n: int) -> int:
        ...     return 2 * n
        >>> double(4)
        8
    """

    def __init__(self, name: str | None = None) -> None:
        taken = name is not None and call_queue(name) == dead_letter_queue(CALL_QUEUE)
        if name is not None and (not name or taken or "." in name or _too_long(dead_letter_queue(call_queue(name)))):
            raise ConfigurationError(
                f"{name!r} can't name a service: a name has no dot, since calls are written service.function, is not "
                f"empty, makes a queue's name of at most {LONGEST_NAME} bytes, and is not 'dead', as dead letters' is"
            )
        self.name = name
        self._functions: dict[str, Function] = {}

    @property
    def queue(self) -> str:
        """The queue that holds its calls."""
        return call_queue(self.name)

    @property
    def functions(self) -> dict[str, Function]:
        """The registered functions by name."""
        return dict(self._functions)

    @overload
    def rpc(self, function: F, /) -> F: ...
    @overload
    def rpc(
        self, /, *, name: str | None = None, idempotent: bool = False, default: bool = False
    ) -> Callable[[F], F]: ...
    def rpc(
        self, function: F | None = None, /, *, name: str | None = None, idempotent: bool = False, default: bool = False
    ) -> F | Callable[[F], F]:
        """Register a function: clients can call it. It stays the function that it is.

        Args:
            function: An ordinary or an ``async def`` function; its type hints say what callers may send.
            name: What clients call it; the function's own name unless given.
            idempotent: Whether running it twice does no harm. Only then is a call sent again that may have run.
            default: Whether it answers plain text bodies that name no function, as RabbitMQ's tutorials send.
                A service's only function does that in any case.

        Raises:
            ConfigurationError: The name is taken, a parameter has a reserved name (``timeout``, ``idempotent``,
                ``wait_for_server``, ``on_progress``), or a type can't be sent. It names the file and the line.

        Example:
            >>> service = Service()
            >>> @service.rpc(name="sum", idempotent=True)
            ... def add(a: int, b: int = 0) -> int:
            ...     return a + b
        """

        def register(function: F) -> F:
            self._add(function, name=name, idempotent=idempotent, default=default)
            return function

        return register if function is None else register(function)

    def _add(self, function: Callable[..., Any], *, name: str | None, idempotent: bool, default: bool) -> None:
        if not callable(function) or isinstance(function, type):
            raise ConfigurationError(f"@service.rpc takes a function, not {function!r}")
        name = name if name is not None else getattr(function, "__name__", "")
        signature = Signature(function, name)
        if not name or "." in name or _too_long(name):
            raise ConfigurationError(
                f"{signature.where}: {name!r} can't name a function: it has no dot, is not empty and has at most "
                f"{LONGEST_NAME} bytes"
            )
        if name in self._functions:
            raise ConfigurationError(
                f"{signature.where}: {name!r} is registered already, at {self._functions[name].signature.where}; "
                "give one of them name="
            )
        if default and (other := next((f for f in self._functions.values() if f.default), None)):
            raise ConfigurationError(f"{signature.where}: {other.name!r} is the default function already")
        registered = Function(
            name=name,
            service=self.name,
            call=function,
            signature=signature,
            idempotent=idempotent,
            default=default,
            asynchronous=inspect.iscoroutinefunction(function),
        )
        self._functions[name] = registered
        # The first registration names the function object; later ones are called by their names as text. A wrapper
        # brings the mark of what it wraps (functools.wraps), and is another function. A bound method can't be marked.
        if getattr(getattr(function, _MARK, None), "call", None) is not function:
            with contextlib.suppress(AttributeError, TypeError):
                setattr(function, _MARK, registered)

    def __repr__(self) -> str:
        return f"Service({self.name!r}: {', '.join(self._functions) or 'no functions'})"


def _too_long(name: str) -> bool:
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


def merge(services: Iterable[Service]) -> dict[str, dict[str, Function]]:
    """Return the functions of several services by queue and name.

    Raises:
        ConfigurationError: Two of them share a queue and have a function of the same name, or there are no functions.
    """
    queues: dict[str, dict[str, Function]] = {}
    for service in dict.fromkeys(services):
        functions = queues.setdefault(service.queue, {})
        for name, function in service.functions.items():
            if name in functions:
                raise ConfigurationError(
                    f"{function.signature.where}: {name!r} is registered already in another service with queue "
                    f"{service.queue!r}, at {functions[name].signature.where}; name one of the services"
                )
            function.signature.compile()
            functions[name] = function
    for queue, functions in queues.items():
        if not functions:
            raise ConfigurationError(f"the service of {queue!r} has no functions; register them with @service.rpc")
        if len([function for function in functions.values() if function.default]) > 1:
            raise ConfigurationError(f"queue {queue!r} has two default functions, and can have one")
    return queues


def default_function(functions: dict[str, Function]) -> Function | None:
    """Return the function that answers plain text bodies without a name: the only one, or the one marked default."""
    if len(functions) == 1:
        return next(iter(functions.values()))
    return next((function for function in functions.values() if function.default), None)
