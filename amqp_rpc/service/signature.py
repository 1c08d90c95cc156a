"""Signatures: arguments are checked and converted by a function's type hints before it is called.

Text bodies are converted leniently (``"30"`` becomes 30 for an ``int``); msgpack and JSON values must already be of the
right kind. See `hints`.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Optional

import msgspec

from amqp_rpc.errors import CodecError, ConfigurationError, InvalidArguments
from amqp_rpc.message import codec
from amqp_rpc.message.envelope import Event
from amqp_rpc.message.text import brief
from amqp_rpc.service.hints import Hint, name_of, problem, problem_of_result, result_hint

if sys.version_info >= (3, 14):
    import annotationlib


@dataclass(frozen=True, slots=True)
class Options:
    """The keywords of a client's method, as users write it: a function can't have parameters of these names."""

    method: str
    names: frozenset[str]


CALL_OPTIONS = Options(
    "client.call()",
    frozenset({"timeout", "idempotent", "wait_for_server", "queue", "content_type", "headers", "on_progress"}),
)
#: Events have no named arguments.
EVENT_OPTIONS = Options("client.publish()", frozenset())
TASK_OPTIONS = Options(
    "client.enqueue()",
    frozenset(
        {
            "timeout",
            "delay",
            "eta",
            "expires",
            "priority",
            "unique_for",
            "unique_key",
            "queue",
            "content_type",
            "headers",
        }
    ),
)

#: No limit, for bytes that are not sent.
_ANY = 2**62
_VARIADIC = frozenset({inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD})
_PATH = re.compile(r"`\$([^`]*)`")


class Signature:
    """The parameters of a function, for arguments from the wire.

    Args:
        function: An ordinary or an ``async def`` function.
        name: Its name in messages.
        options: Names that its parameters can't have.
        returns: Whether its result is sent.
    """

    def __init__(
        self, function: Callable[..., Any], name: str, options: Options = CALL_OPTIONS, *, returns: bool = True
    ) -> None:
        self.name = name
        self._returns = returns
        self._options = options
        self.where: str = where(function)
        self._function = function
        try:
            self._parameters = list(_signature(function).parameters.values())
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"{self.where}: {name}() can't be registered: {error}") from error
        self._compiled: _Compiled | None = None
        #: For `check`, where a type hint does not resolve.
        self._names: _Compiled | None = None
        self._check()

    def __str__(self) -> str:
        """Return it as a person writes it: ``fib(n: int) -> int``."""
        signature = _signature(self._function, written=True)
        parameters = [p.replace(annotation=_verbatim(p.annotation)) for p in signature.parameters.values()]
        result = _verbatim(signature.return_annotation)
        return f"{self.name}{signature.replace(parameters=parameters, return_annotation=result)}"

    def compile(self) -> _Compiled:
        """Resolve the type hints.

        Raises:
            ConfigurationError: A hint names something that does not exist, or a type that can't travel.
        """
        if self._compiled is None:
            try:
                hints = typing.get_type_hints(annotated(self._function), include_extras=True)
                hints = {name: Any if hint is object else hint for name, hint in hints.items()}
                self._check_hints(hints)
                self._compiled = _Compiled(self.name, self._parameters, hints)
            except ConfigurationError:
                raise
            # A hint is a user's code, and so are the hints of the fields of a dataclass.
            except Exception as error:
                raise ConfigurationError(f"{self.where}: {self.name}() has a type hint that fails: {error}") from error
        return self._compiled

    def verify(self) -> None:
        """Check the type hints.

        Raises:
            ConfigurationError: One fails, or is a type that can't travel.
        """
        self.compile()

    @property
    def names(self) -> list[str]:
        """The names of the parameters."""
        return [p.name for p in self._parameters]

    @property
    def required(self) -> list[str]:
        """The parameters that have no default."""
        return [p.name for p in self._parameters if p.default is p.empty and p.kind not in _VARIADIC]

    def check(self, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        """Check arguments where they are sent, as the server will: names, count, and types if all type hints resolve.

        Raises:
            InvalidArguments: The function can't be called with them.
        """
        checker = self._checker()
        try:
            checker.bind(args, kwargs, binary=True)
        except InvalidArguments as error:
            # A value that does not fit may fit as what it becomes on its way: a tuple is a list there.
            try:
                arrived = codec.decode(
                    codec.encode([args, kwargs], codec.MSGPACK, limit=_ANY), codec.MSGPACK, limit=_ANY
                )
            except CodecError:
                raise error from None
            checker.bind(*arrived, binary=True)

    def _checker(self) -> _Compiled:
        """Return what binds arguments at the sender: by their names alone if a type hint does not resolve here."""
        if self._names is not None:
            return self._names
        try:
            return self.compile()
        except ConfigurationError:
            self._names = _Compiled(self.name, self._parameters, {})
            return self._names

    def _check(self) -> None:
        for parameter in self._parameters:
            if parameter.name in self._options.names and parameter.kind is not inspect.Parameter.POSITIONAL_ONLY:
                raise ConfigurationError(
                    f"{self.where}: {self.name}() has a parameter named {parameter.name!r}, which is an option of "
                    f"{self._options.method}; rename it (reserved: {', '.join(sorted(self._options.names))})"
                )
            if parameter.kind in _VARIADIC and parameter.annotation is inspect.Parameter.empty:
                stars = "*" if parameter.kind is inspect.Parameter.VAR_POSITIONAL else "**"
                raise ConfigurationError(
                    f"{self.where}: {self.name}() takes {stars}{parameter.name} without a type hint, so its callers "
                    f"can't be told what to send; write {stars}{parameter.name}: int (or Any), or name the parameters"
                )
        try:
            self.verify()
        except ConfigurationError as error:
            # A name that the module defines further down is known when the service is served.
            if not isinstance(error.__cause__, NameError):
                raise

    def _check_hints(self, hints: dict[str, Any]) -> None:
        for parameter in self._parameters:
            hint = hints.get(parameter.name, Any)
            if (why := problem(hint)) is not None:
                raise ConfigurationError(f"{self.where}: {self.name}({parameter.name}: {name_of(hint)}): {why}")
        hint = hints.get("return", Any)
        if self._returns and (why := problem_of_result(hint)) is not None:
            raise ConfigurationError(f"{self.where}: {self.name}() -> {name_of(hint)}: {why}")


class EventSignature(Signature):
    """The parameters of an event's handler: one for the payload, one for the `Event`; both are optional."""

    def verify(self) -> None:
        """Check the type hints, and that an event fits the parameters."""
        self.roles()

    def roles(self) -> tuple[str | None, str | None]:
        """Return the names of the parameters for the payload and for the `Event`; None for a missing one.

        Raises:
            ConfigurationError: There are more parameters, or a type hint fails.
        """
        hints = self.compile().hints
        events = [name for name, hint in hints.items() if hint is Event or Event in typing.get_args(hint)]
        others = [name for name in hints if name not in events]
        required = [name for name in self.required if name not in events]
        takes = others[0] if others else None
        if len(events) > 1 or [name for name in required if name != takes]:
            raise ConfigurationError(
                f"{self.where}: {self.name}() takes {', '.join(self.required)}, and an event has one payload: write "
                f"{self.name}(payload), with its type hint, and a parameter with the type hint Event if you need it"
            )
        return takes, events[0] if events else None

    def has_default(self, name: str) -> bool:
        """Return whether a parameter has a default."""
        return name not in self.required

    def takes_bytes(self, name: str) -> bool:
        """Return whether a parameter takes bytes and nothing else: then a body of text or bytes stays as it is."""
        return self.compile().field(name).hint.raw

    def payload(self, name: str, value: Any, *, binary: bool, text: bool) -> Any:
        """Return a payload converted to its parameter's type.

        Args:
            name: The parameter's.
            value: The decoded body.
            binary: Whether its content type has bytes.
            text: Whether it is plain text, or bytes: what does not fit as it is, is converted leniently.

        Raises:
            InvalidArguments: It does not fit.
        """
        field = self.compile().field(name)
        if not text:
            return self.compile().convert(field, value, binary=binary)
        try:
            return self.compile().convert(field, value, binary=isinstance(value, bytes))
        except InvalidArguments:
            return self.compile().convert(field, value, binary=False, strict=False)


class _Compiled:
    """A signature with its type hints resolved."""

    def __init__(self, name: str, parameters: list[inspect.Parameter], hints: dict[str, Any]) -> None:
        self._name = name
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        fields = {p.name: _Field(p, hints.get(p.name, Any)) for p in parameters}
        self._positional = [fields[p.name] for p in parameters if p.kind in positional]
        self._named = {
            p.name: fields[p.name]
            for p in parameters
            if p.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        }
        self._required = [fields[p.name] for p in parameters if p.default is p.empty and p.kind not in _VARIADIC]
        self._rest = next((fields[p.name] for p in parameters if p.kind is p.VAR_POSITIONAL), None)
        self._first = self._positional[0] if self._positional else self._rest
        self._other = next((fields[p.name] for p in parameters if p.kind is p.VAR_KEYWORD), None)
        #: True for positional parameters without defaults alone: the common case, and the quick one.
        self._simple = self._required == self._positional
        self._result = result_hint(hints.get("return", Any))
        #: Whether its result is bytes: a reply of text or bytes stays as it is then.
        self.returns_bytes: bool = self._result.raw

    def bind(
        self, args: Sequence[Any], kwargs: dict[str, Any], *, binary: bool = False
    ) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments, each converted to its parameter's type.

        Args:
            args: By position.
            kwargs: By name.
            binary: Whether their content type has bytes: text is then not base64.

        Raises:
            InvalidArguments: One is missing, too many, given twice, unknown or of another type.
        """
        positional = self._positional
        if len(args) > len(positional) and self._rest is None:
            raise InvalidArguments(
                f"{self._name}() takes {_count(len(positional))}{self._listed()}, and {len(args)} came by position"
            )
        if self._simple and len(args) == len(positional) and not kwargs:
            return [
                value if type(value) is field.exact else self.convert(field, value, binary=binary)
                for field, value in zip(positional, args, strict=True)
            ], kwargs
        bound = [
            self.convert(positional[i] if i < len(positional) else self._rest, value, binary=binary)  # type: ignore[arg-type]
            for i, value in enumerate(args)
        ]
        given = {field.name for field in positional[: len(args)]}
        named = {name: self.convert(self._given(name, given), value, binary=binary) for name, value in kwargs.items()}
        missing = [field.name for field in self._required if field.name not in given and field.name not in named]
        if missing:
            raise InvalidArguments(f"{self._name}() got no {_quoted(missing)}{self._listed()}")
        return bound, named

    @property
    def takes_bytes(self) -> bool:
        """Whether its only argument takes bytes and nothing else: then a body of text or bytes stays as it is."""
        field = self._first
        return field is not None and field.hint.raw

    def bind_body(self, body: str | bytes) -> tuple[list[Any], dict[str, Any]]:
        """Return a body of text or bytes as the only argument, converted leniently; an empty one may be none.

        Raises:
            InvalidArguments: The function does not take exactly one argument, or the body does not fit it.
        """
        field = self._first
        if not body and not self._required and field is None:
            return [], {}
        if field is None or any(required is not field for required in self._required):
            raise InvalidArguments(f"{self._name}() can't be called with one text{self._listed()}")
        try:
            return [self.convert(field, body, binary=isinstance(body, bytes), strict=False)], {}
        except InvalidArguments:
            # An empty text is an argument only where it fits.
            if body or self._required:
                raise
            return [], {}

    def field(self, name: str) -> _Field:
        """Return a parameter that can be given by name."""
        return self._named[name]

    @property
    def hints(self) -> dict[str, Any]:
        """The types of the parameters that can be given by name."""
        return {name: field.hint.hint for name, field in self._named.items()}

    @property
    def result(self) -> Any:
        """The type of results; Any for one that results are not converted to."""
        return self._result.hint

    def convert_result(self, value: Any, *, strict: bool = True) -> Any:
        """Return a result converted to the function's return type; leniently where it came as text.

        Raises:
            msgspec.ValidationError: It is of another type.
        """
        if not strict and value in ("None", "") and self._result.hint is not str:
            # The text of None; JSON's null is what msgspec takes for it.
            value = None
        return self._result.convert(value, binary=strict, strict=strict)

    def _given(self, name: str, given: set[str]) -> _Field:
        field = self._named.get(name, self._other)
        if field is None:
            raise InvalidArguments(f"{self._name}() has no parameter {name!r}{self._listed()}")
        if name in given:
            raise InvalidArguments(f"{self._name}() got parameter {name!r} twice: by position and by name")
        return field

    def convert(self, field: _Field, value: Any, *, binary: bool, strict: bool = True) -> Any:
        """Return a value converted to a parameter's type.

        Raises:
            InvalidArguments: It is of another type.
        """
        if type(value) is field.exact:
            return value
        try:
            return field.hint.convert(value, binary=binary, strict=strict)
        except msgspec.ValidationError as error:
            raise InvalidArguments(self._mismatch(field, value, str(error))) from None
        # A value can make msgspec raise anything: half of a surrogate pair, for example.
        except Exception:
            said = f"expected {name_of(field.hint.hint)}, got {type(value).__name__}"
            raise InvalidArguments(self._mismatch(field, value, said)) from None

    def _mismatch(self, field: _Field, value: Any, said: str) -> str:
        """Return msgspec's error with the parameter's name in the place of ``$``, and the value."""
        said = _PATH.sub(lambda match: f"{field.name}{match.group(1)}", said).replace("`", "")
        if " got " not in said:
            said = f"{said} ({field.name} is {name_of(field.hint.hint)})"
        return f"{self._name}(): parameter {field.name!r}: {said[:1].lower()}{said[1:]}; it was {brief(value)}"

    def _listed(self) -> str:
        names = list(dict.fromkeys([*(f.name for f in self._positional), *self._named]))
        return f" (parameters: {', '.join(names)})" if names else " (it has no parameters)"


class _Field:
    """One parameter: its name, its type hint, and the type that needs no conversion."""

    __slots__ = ("exact", "hint", "name")

    def __init__(self, parameter: inspect.Parameter, hint: Any) -> None:
        self.name: str = parameter.name
        # A default of None makes the parameter optional.
        self.hint: Hint = Hint(Optional[hint] if parameter.default is None else hint)  # noqa: UP045 - any hint, not only classes
        self.exact: type | None = self.hint.exact


class _Verbatim(str):
    """A type hint that was written as text, shown without quotes."""

    __slots__ = ()
    __repr__ = str.__str__


def annotated(function: Any) -> Any:
    """Return the function that has the type hints of a callable: of a `functools.partial`, or an object."""
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, staticmethod):
        return function.__func__
    # Of a wrapper (functools.wraps), which may be an object too, inspect and typing know the function.
    if inspect.isroutine(function) or isinstance(function, type) or hasattr(function, "__wrapped__"):
        return function
    return getattr(function, "__call__", function)  # noqa: B004 - it is not asked whether there is one


def _signature(function: Callable[..., Any], *, written: bool = False) -> inspect.Signature:
    """Return a signature whose annotations may name what is not defined yet; ``written``: as they stand in the code."""
    if sys.version_info >= (3, 14):
        # Python 3.14 evaluates them only here: https://docs.python.org/3.14/library/annotationlib.html
        form = annotationlib.Format.STRING if written else annotationlib.Format.FORWARDREF
        return inspect.signature(function, annotation_format=form)
    return inspect.signature(function)


def where(function: Any) -> str:
    """Return the file and the line of a function, for errors that name it."""
    code = getattr(inspect.unwrap(annotated(function)), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(function)


def _verbatim(annotation: Any) -> Any:
    return _Verbatim(annotation) if isinstance(annotation, str) else annotation


def _count(number: int) -> str:
    return "no arguments" if number == 0 else "1 argument" if number == 1 else f"{number} arguments"


def _quoted(names: list[str]) -> str:
    return " and ".join(", ".join(repr(name) for name in names).rsplit(", ", 1))
