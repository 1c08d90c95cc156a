"""Exceptions to data and back: what a server says of a failure, and what a client raises for it.

On the wire an error is a map: ``type``, ``message``, ``data`` and, where the server allows it, ``traceback``. It is
never pickled. The client rebuilds an exception only of a class that it knows already: a builtin of the list below, a
library error, or a class that was given to `register_error`. Anything else becomes a plain `RemoteError`.
"""

from __future__ import annotations

import builtins
import threading
from typing import Any, TypeVar

from amqp_rpc import errors
from amqp_rpc.errors import AmqpRpcError, CallError, ConfigurationError, RemoteError

E = TypeVar("E", bound=type[Exception])

#: What the server itself says of a call, by its name on the wire: rebuilt as that class alone, since no handler raised.
VERDICTS: dict[str, type[AmqpRpcError]] = {
    error.__name__: error
    for error in (
        errors.FunctionNotFound,
        errors.InvalidArguments,
        errors.Expired,
        errors.MaybeExecuted,
        errors.Undecodable,
        errors.Unencodable,
        errors.MessageTooLarge,
    )
}

#: Attributes of a custom exception travel up to this many characters of their text, so that an error stays an error.
_LARGEST_ATTRIBUTES = 10_000

# Exception, not BaseException: a remote SystemExit or KeyboardInterrupt must not end the caller's process.
_registry: dict[str, type[Exception]] = {
    name: value
    for name, value in vars(builtins).items()
    if isinstance(value, type) and issubclass(value, Exception) and value.__name__ == name
}
_raised_classes: dict[type[Exception], type[RemoteError]] = {}
_lock = threading.Lock()


def register_error(cls: E) -> E:
    """Let an exception class cross: use it as a decorator, on both sides.

    A handler that raises it makes the caller raise an instance of the class too, with its ``args`` and its attributes;
    its ``__init__`` is not called again. The name on the wire is the class's module and qualified name.

    Args:
        cls: A subclass of `Exception`.

    Raises:
        ConfigurationError: It is not an exception class, or another class has its name.

    Example:
        >>> @register_error
        ... class CardDeclined(Exception):
        ...     pass
    """
    if not (isinstance(cls, type) and issubclass(cls, Exception)):
        raise ConfigurationError(f"register_error takes an exception class, not {cls!r}")
    known = _registry.setdefault(_wire_name(cls), cls)
    if known is not cls:
        raise ConfigurationError(f"two exception classes are named {_wire_name(cls)}")
    return cls


def describe_verdict(error: AmqpRpcError) -> dict[str, Any]:
    """Return the map for what the server itself says of a call (an unknown function, wrong arguments, …)."""
    return {"type": type(error).__name__, "message": str(error), "data": {}}


def describe_raised(error: BaseException, *, traceback: str | None) -> dict[str, Any]:
    """Return the map for what a handler raised.

    Args:
        error: The exception.
        traceback: Its traceback as text; None leaves it out.
    """
    data: dict[str, Any] = {"args": [_plain(argument) for argument in error.args]}
    if not isinstance(error, OSError | SyntaxError):
        attributes = {key: value for key, value in vars(error).items() if not key.startswith("_")}
        plain = {key: _plain(value) for key, value in attributes.items()}
        if plain and len(repr(plain)) <= _LARGEST_ATTRIBUTES:
            data["attributes"] = plain
    described = {"type": _wire_name(type(error)), "message": text_of(error), "data": data}
    if traceback is not None:
        described["traceback"] = traceback
    return described


def rebuild(described: Any) -> AmqpRpcError:
    """Return the exception that a client raises for an error's map.

    Args:
        described: The decoded body of an error reply, in whatever shape it came.
    """
    if not isinstance(described, dict):
        return _plain_remote_error("RemoteError", str(described), None)
    name, message = str(described.get("type", "RemoteError")), str(described.get("message", ""))
    traceback = described.get("traceback")
    if name in VERDICTS:
        error = VERDICTS[name](message)
        # A result that can't be encoded, or is too large, was computed: the function ran.
        error.may_have_run = not isinstance(error, CallError) and bool(_mapping(described.get("data")).get("ran"))
        if isinstance(error, CallError):
            error.may_have_run = type(error).may_have_run
        return error
    data = _mapping(described.get("data"))
    known = _registry.get(name)
    if known is None:
        return _plain_remote_error(name, message, traceback)
    raised = _raised_class(known)
    rebuilt = raised.__new__(raised)
    arguments = data.get("args")
    rebuilt.args = tuple(arguments) if isinstance(arguments, list | tuple) else (message,)
    vars(rebuilt).update(_mapping(data.get("attributes")))
    return _complete(rebuilt, name, message, traceback)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _plain_remote_error(name: str, message: str, traceback: Any) -> RemoteError:
    return _complete(RemoteError(message), name, message, traceback)


def _complete(error: RemoteError, name: str, message: str, traceback: Any) -> RemoteError:
    error.type, error.message = name, message
    if isinstance(traceback, str):
        error.traceback = traceback
        error.add_note(f"\nOn the server:\n{traceback.rstrip()}")
    return error


def _raised_class(known: type[Exception]) -> type[RemoteError]:
    """Return the class that is both a RemoteError and the class that the handler raised."""
    if issubclass(known, RemoteError):
        return known
    with _lock:
        if known not in _raised_classes:
            # RemoteError comes first: its text and its may_have_run hold, whatever the handler raised.
            members = {"__module__": known.__module__, "__doc__": known.__doc__}
            _raised_classes[known] = type(known.__name__, (RemoteError, known), members)
        return _raised_classes[known]


def _wire_name(cls: type[BaseException]) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _plain(value: Any) -> Any:
    """Return an exception's argument where it is a plain value, else its text: a failure must always be encodable."""
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return value
    if isinstance(value, list | tuple) and all(isinstance(item, bool | int | float | str | None) for item in value):
        return list(value)
    return text_of(value)


def text_of(value: object) -> str:
    """Return ``str(value)``, or that it has none: an exception's own code must not keep it from being told."""
    try:
        return str(value)
    except Exception as error:
        return f"({type(value).__qualname__}, whose text raises {type(error).__name__})"
