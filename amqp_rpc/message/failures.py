"""Exceptions to data and back: a server describes a failure, and a client raises it.

On the wire an error is a map: ``type``, ``message``, ``data`` and, if the server allows it, ``traceback``. It is never
pickled. The client rebuilds exceptions only of classes that it knows: builtins, errors of this library, and classes
that were given to `register_error`. Any other becomes the nearest of its base classes that is known here, or a plain
`RemoteError`. An exception group has its exceptions, and an exception its notes and its cause.
"""

from __future__ import annotations

import builtins
import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast, overload

from amqp_rpc import errors
from amqp_rpc.errors import LONGEST, AmqpRpcError, CallError, ConfigurationError, RemoteError
from amqp_rpc.message.text import brief, lines, quoted, shortened, text_of

E = TypeVar("E", bound=type[Exception])

#: Errors that the server itself raises for a call, by name on the wire. The client raises the same class, and no
#: `RemoteError`: no handler raised it.
VERDICTS: dict[str, type[AmqpRpcError]] = {
    error.__name__: error
    for error in (
        errors.FunctionNotFound,
        errors.InvalidArguments,
        errors.NotAuthorized,
        errors.Expired,
        errors.MaybeExecuted,
        errors.Undecodable,
        errors.Unencodable,
        errors.MessageTooLarge,
    )
}

#: The most characters of the text of an error that is too large to be kept whole.
_ABRIDGED = 200
#: The data of an error that are small, and that decide something.
_BRIEF = frozenset({"ran", "earlier", "bases"})
#: Characters of a custom exception's attributes, as text; larger ones don't travel, so that the error itself does.
_LARGEST_ATTRIBUTES = 10_000

#: The attributes of builtins that are not in their ``vars()``, by class.
_FIELDS: dict[type[BaseException], tuple[str, ...]] = {
    OSError: ("filename", "filename2"),
    ImportError: ("name", "path"),
    NameError: ("name",),
    AttributeError: ("name",),
    SyntaxError: ("msg", "filename", "lineno", "offset", "text", "end_lineno", "end_offset"),
}
#: Arguments of an exception, at most.
_MOST_ARGUMENTS = 100
#: Exceptions of a group, notes of an exception, and exceptions inside of each other, at most; characters of a note.
_MOST_IN_GROUP, _MOST_NOTES, _DEEPEST, _LONGEST_NOTE = 50, 20, 5, 2000

_SCALARS = (bool, int, float, bytes, type(None))

# Exception, not BaseException: a remote SystemExit or KeyboardInterrupt must not end the caller's process. And not the
# ends of iteration: Python turns them into RuntimeError when they leave a generator or a coroutine.
_registry: dict[str, type[Exception]] = {
    name: value
    for name, value in vars(builtins).items()
    if isinstance(value, type) and issubclass(value, Exception) and value.__name__ == name
    if not issubclass(value, StopIteration | StopAsyncIteration)
}
# A handler lets the errors of its own calls through.
_registry |= {
    f"{errors.__name__}.{name}": value
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, AmqpRpcError)
}
#: From registered classes to their names.
_names: dict[type[BaseException], str] = {}
_raised_classes: dict[type[Exception], type[RemoteError]] = {}
_lock = threading.Lock()


@overload
def register_error(cls: E, /) -> E: ...
@overload
def register_error(*, name: str) -> Callable[[E], E]: ...
def register_error(cls: E | None = None, /, *, name: str | None = None) -> E | Callable[[E], E]:
    """Let an exception class cross: use it as a decorator, on both sides.

    A handler that raises it makes the caller raise an instance of the class too, with its ``args`` and its attributes;
    its ``__init__`` is not called again.

    Args:
        cls: A subclass of `Exception`.
        name: Its name on the wire; its module and qualified name unless given. Give one if the two sides import the
            class under different module names, or don't share the module.

    Raises:
        ConfigurationError: It is not an exception class, or another class has its name.

    Example:
        >>> @register_error
        ... class CardDeclined(Exception):
        ...     pass
        >>> @register_error(name="shop.OutOfStock")
        ... class OutOfStock(Exception):
        ...     pass
    """

    def register(cls: E) -> E:
        if not (isinstance(cls, type) and issubclass(cls, Exception)):
            raise ConfigurationError(f"register_error takes an exception class, not {cls!r}")
        wire_name = name or _wire_name(cls)
        if _registry.setdefault(wire_name, cls) is not cls or wire_name in VERDICTS:
            raise ConfigurationError(f"two exception classes are named {wire_name!r}; give one of them name=")
        _names[cls] = wire_name
        return cls

    return register if cls is None and name is not None else register(cast(E, cls))


def describe_verdict(error: AmqpRpcError, *, ran: bool = False, earlier: bool = False) -> dict[str, Any]:
    """Return the map of an error that the server itself raises for a call (unknown function, wrong arguments, …).

    Args:
        error: The error.
        ran: The function ran, and its result can't be sent.
        earlier: The function may have run in an earlier attempt: the error is about this one.
    """
    data = {name: True for name, value in (("ran", ran), ("earlier", earlier)) if value}
    return {"type": type(error).__name__, "message": str(error), "data": data}


def describe_raised(error: BaseException, *, traceback: str | None, depth: int = 0) -> dict[str, Any]:
    """Return the map of a handler's exception, with its traceback as text, if there is one.

    ``depth`` counts the exceptions around it: a group's, or those that it is the cause of.
    """
    data: dict[str, Any] = {"args": [_plain(argument) for argument in error.args[:_MOST_ARGUMENTS]]}
    attributes = {key: _plain(value) for key, value in vars(error).items() if _may_travel(key)}
    if attributes and len(text_of(attributes)) <= _LARGEST_ATTRIBUTES:
        data["attributes"] = attributes
    # An error of another server keeps its name.
    name = error.type if isinstance(error, RemoteError) else _wire_name(type(error))
    bases = [_wire_name(base) for base in type(error).__mro__[1:] if _is_told(base)]
    if bases and name not in vars(builtins):
        data["bases"] = bases
    names = (name for base, names in _FIELDS.items() if isinstance(error, base) for name in names)
    if fields := {name: _plain(value) for name in names if (value := getattr(error, name, None)) is not None}:
        data["fields"] = fields
    if notes := _notes(error):
        data["notes"] = notes
    if depth < _DEEPEST:
        if isinstance(error, BaseExceptionGroup):
            inner = error.exceptions[:_MOST_IN_GROUP]
            data["exceptions"] = [describe_raised(each, traceback=None, depth=depth + 1) for each in inner]
        if error.__cause__ is not None:
            data["cause"] = describe_raised(error.__cause__, traceback=None, depth=depth + 1)
    described = {"type": name, "message": shortened(text_of(error)), "data": data}
    if traceback is not None:
        described["traceback"] = traceback
    return described


def abridged(described: Any, why: str) -> Any:
    """Return the map, or the text, of an error that is too large: its type, and the beginning of its message."""
    message = described.get("message", "") if isinstance(described, dict) else described
    short = f"{text_of(message)[:_ABRIDGED]}… (the rest was not read: {why})"
    return brief_error(described, short) if isinstance(described, dict) else short


def brief_error(described: dict[str, Any], message: str) -> dict[str, Any]:
    """Return the map of an error with another message, and without all that may be large."""
    data = {name: value for name, value in _mapping(described.get("data")).items() if name in _BRIEF}
    return {"type": described.get("type", "RemoteError"), "message": message, "data": data}


def rebuild(described: Any, *, depth: int = 0) -> AmqpRpcError:
    """Return the exception that a client raises for the decoded body of an error reply, of any shape.

    ``depth`` counts the exceptions around it, as in `describe_raised`.
    """
    if isinstance(described, str):
        described = _described(described)
    if not isinstance(described, dict):
        return _complete(RemoteError(), "RemoteError", text_of(described), None)
    name, message = text_of(described.get("type", "RemoteError")), text_of(described.get("message", ""))
    data = _mapping(described.get("data"))
    if name in VERDICTS:
        verdict = VERDICTS[name](message)
        if not isinstance(verdict, CallError):
            # The function ran, if its result can't be encoded or is too large.
            verdict.may_have_run = data.get("ran") is True
        if data.get("earlier") is True:
            verdict.may_have_run = True
        return verdict
    arguments = data.get("args")
    args = tuple(arguments) if isinstance(arguments, list | tuple) else (message,)
    names = [name, *_listed(data.get("bases"))]
    inner = [each for each in _listed(data.get("exceptions")) if isinstance(each, dict)]
    if inner and depth < _DEEPEST:
        text = args[0] if args and isinstance(args[0], str) else ""
        group = (text, [rebuild(each, depth=depth + 1) for each in inner])
        rebuilt = _nearest([*names, "ExceptionGroup"], group)
        rebuilt.args = args
    else:
        rebuilt = _nearest(names, args)
    _fill(rebuilt, data)
    if depth < _DEEPEST and isinstance(data.get("cause"), dict):
        rebuilt.__cause__ = rebuild(data["cause"], depth=depth + 1)
    return _complete(rebuilt, name, message, described.get("traceback"))


def _nearest(names: list[Any], args: tuple[Any, ...]) -> RemoteError:
    """Return an instance of the first of these classes that is known here, or of one of its bases."""
    for name in names:
        known = _registry.get(name) if isinstance(name, str) else None
        for base in known.__mro__ if known is not None else ():
            if _is_told(base) and (made := _instance(base, args)) is not None:
                return made
    return RemoteError(*args)


def _fill(rebuilt: RemoteError, data: dict[str, Any]) -> None:
    """Set the attributes of an exception, and its notes."""
    for key, value in _mapping(data.get("attributes")).items():
        if _may_travel(key):
            vars(rebuilt)[key] = value
    fields = _mapping(data.get("fields"))
    for base, names in _FIELDS.items():
        if isinstance(rebuilt, base):
            for key in names & fields.keys():
                # One of another type than the builtin allows stays unset.
                with contextlib.suppress(Exception):
                    # Python shows those of a SyntaxError with the traceback.
                    value = fields[key]
                    setattr(rebuilt, key, quoted(value.removesuffix("\n")) if isinstance(value, str) else value)
    for note in _listed(data.get("notes"))[:_MOST_NOTES]:
        # Python prints a note from the beginning of a line on: no line of it begins as one of the log.
        rebuilt.add_note(lines(text_of(note), "  "))


def _notes(error: BaseException) -> list[str]:
    # Any code may set them to anything.
    notes = getattr(error, "__notes__", None)
    return [text_of(note)[:_LONGEST_NOTE] for note in notes[:_MOST_NOTES]] if isinstance(notes, list | tuple) else []


def _is_told(base: type) -> bool:
    """Return whether it helps a client to know that an exception has this base class."""
    return issubclass(base, Exception) and base is not Exception and base is not RemoteError


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _described(text: str) -> dict[str, Any]:
    """Return the map of an error in text, ``type: message``; without a type where the text names none."""
    name, colon, message = text.partition(": ")
    if not colon or not all(part.isidentifier() for part in name.split(".")):
        return {"message": text}
    # The text does not say whether the function ran. It did not, if its arguments could not be read.
    return {"type": name, "message": message, "data": {"ran": name != "Undecodable"}}


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _may_travel(key: Any) -> bool:
    """Return whether an attribute is the exception's own: not private, and not one of `RemoteError`."""
    return isinstance(key, str) and key.isidentifier() and not key.startswith("_") and not hasattr(RemoteError, key)


def _instance(known: type[Exception], args: tuple[Any, ...]) -> RemoteError | None:
    """Return an instance of the class without running its ``__init__``; None if that fails."""
    raised = _raised_class(known)
    for make in (raised.__new__, BaseException.__new__):
        try:
            rebuilt = make(raised, *args)
            # Only OSError's own __init__ sets errno and strerror.
            if isinstance(rebuilt, OSError):
                OSError.__init__(rebuilt, *args)
            rebuilt.args = args
        # A class's own __new__ may raise anything, and some builtins refuse one of the two calls.
        except Exception:  # noqa: S112 - the next one is tried
            continue
        else:
            return rebuilt
    return None


def _complete(error: RemoteError, name: str, message: str, traceback: Any) -> RemoteError:
    error.type, error.message = name, message
    if isinstance(traceback, str):
        error.traceback = traceback
        error.add_note(f"\nOn the server:\n{lines(traceback.rstrip(), '  ')}")
    return error


def _raised_class(known: type[Exception]) -> type[RemoteError]:
    """Return a class that is both `RemoteError` and the class of the handler's exception."""
    if issubclass(known, RemoteError):
        return known
    if issubclass(RemoteError, known):
        return RemoteError
    with _lock:
        if known not in _raised_classes:
            # RemoteError comes first: its text and its may_have_run win.
            members = {"__module__": known.__module__, "__doc__": known.__doc__}
            _raised_classes[known] = type(known.__name__, (RemoteError, known), members)
        return _raised_classes[known]


def _wire_name(cls: type[BaseException]) -> str:
    if cls in _names:
        return _names[cls]
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _plain(value: Any) -> Any:
    """Return an exception's argument if it is a plain value, else its text: a failure must always be encodable.

    What has a longer text than the message may have is text, cut: the error is answered, logged and kept.
    """
    if isinstance(value, list | tuple):
        plain: Any = [item if isinstance(item, _SCALARS) else text_of(item) for item in value]
    else:
        plain = value if isinstance(value, _SCALARS) else text_of(value)
    if isinstance(plain, int):
        # The text of a large one takes long, and has a limit of its own.
        return plain if plain.bit_length() <= 3 * LONGEST else brief(plain)
    if plain is None or isinstance(plain, float):
        return plain
    text = text_of(plain)
    return plain if len(text) <= LONGEST else shortened(text)
