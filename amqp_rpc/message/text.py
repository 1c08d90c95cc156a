"""Values in other forms: as text for people, and as what msgpack and JSON have for types that they don't know.

In errors, logs and lists, whatever a stranger wrote is quoted and cut.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import logging
import reprlib
import traceback
from collections.abc import Callable, Mapping
from operator import methodcaller
from types import TracebackType
from typing import Any, Final, TypeVar

import msgspec

from amqp_rpc.errors import LONGEST, one_line

V = TypeVar("V")

#: The most characters of an error's text inside of a line of the log.
LONGEST_ERROR = 1000
#: The most characters of a traceback; its end is kept, where the cause is.
LONGEST_TRACEBACK = 20_000


class Brevity(reprlib.Repr):
    """How much of a value is shown.

    Args:
        most: Characters of a text, or of another value.
        items: Items of a list or a map.
    """

    def __init__(self, most: int, items: int) -> None:
        super().__init__()
        self.maxstring = self.maxother = most
        self.maxlist = self.maxdict = self.maxtuple = items

    def repr_int(self, x: int, level: int) -> str:
        """Return the text of a number, or how large it is: Python refuses one of more than 4 300 digits."""
        try:
            return super().repr_int(x, level)
        except ValueError:
            return f"<int of {x.bit_length()} bits>"


_BRIEF = Brevity(60, 6)


def brief(value: object, brevity: Brevity = _BRIEF) -> str:
    """Return a value's text for one line of a message; its type's name where it has none."""
    try:
        return brevity.repr(value)
    # repr() runs the value's own code.
    except Exception:
        return f"<{type(value).__qualname__}>"


def text_of(value: object) -> str:
    """Return ``str(value)``, or that it has none: an exception's own code must not keep it out of a log."""
    try:
        # Half of a surrogate pair is text in Python and nowhere else.
        return str(value).encode(errors="backslashreplace").decode()
    except Exception as error:
        return f"({type(value).__qualname__}, whose text raises {type(error).__name__})"


def quoted(value: object, most: int = LONGEST) -> str:
    """Return a stranger's value as text on one line, as `one_line` does."""
    return one_line(value if isinstance(value, str) else text_of(value), most)


def shortened(text: str, most: int = LONGEST) -> str:
    """Return a text, or its beginning and its length if it is longer than so many characters."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)"


def lines(text: str, indent: str = "") -> str:
    """Return a text of several lines, such as a traceback, each quoted and cut.

    Args:
        text: The text; of a long one, the end is kept.
        indent: The beginning of each line: with one, no line looks like one of the log, or like a field of a list.
    """
    ended = text[-LONGEST_TRACEBACK:].removesuffix("\n")
    return "\n".join(f"{indent}{one_line(each)}" for each in ended.split("\n"))


def traceback_text(kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None) -> str:
    """Return an exception's traceback as text. Each part is cut by itself: a long text leaves the frames room."""
    parts = traceback.format_exception(kind, error, frames)
    whole = "".join(part if len(part) <= LONGEST else f"{shortened(part)}\n" for part in parts)
    return text_of(whole[-LONGEST_TRACEBACK:])


def bounded_logger(name: str) -> logging.Logger:
    """Return the logger of a module: each of its records is one line of bounded length, whoever wrote what it says.

    So is each line of its traceback, whatever a handler's exception has for a text; they are indented. Nothing is done
    for a record that is not logged.
    """
    logger = logging.getLogger(name)
    logger.addFilter(_bounded)
    return logger


#: The attributes of our records that a peer can choose: see `Dispatcher.keys`.
_KEYS = "function", "id"


def _bounded(record: logging.LogRecord) -> bool:
    line = record.getMessage()
    if (shown := one_line(line)) != line:
        record.msg, record.args = shown, None
    for key in _KEYS:
        if isinstance(value := vars(record).get(key), str):
            vars(record)[key] = one_line(value)
    # Only a formatter that asks for the usual text gets this one: the exception itself stays whole.
    if record.exc_info and not record.exc_text and record.exc_info[0] is not None:
        record.exc_text = lines(traceback_text(*record.exc_info), "  ")
    return True


def safe_repr(show: Callable[[Any], str]) -> Callable[[Any], str]:
    """Return a ``__repr__`` on one line, also for an object whose constructor has raised: debuggers show those."""

    @functools.wraps(show)
    def shown(self: Any) -> str:
        try:
            return one_line(show(self))
        except AttributeError:
            return f"<{type(self).__qualname__}, not made>"

    return shown


def plural(count: int, one: str, many: str) -> str:
    """Return a number with the words that go with it.

    Example:
        >>> plural(1, "result was", "results were"), plural(0, "result was", "results were")
        ('1 result was', '0 results were')
    """
    return f"{count} {one if count == 1 else many}"


#: All that can be sent, for errors.
SENDABLE: Final = (
    "None, bool, int, float, complex, Decimal, Fraction, str, bytes, bytearray, memoryview, list, tuple, dict, set, "
    "frozenset, deque, OrderedDict, Counter, datetime, date, time, timedelta, UUID, Path, the addresses of ipaddress, "
    "enums, dataclasses, named tuples, TypedDict, msgspec.Struct, attrs classes, pydantic models and numpy's numbers"
)

#: The advice for types that are often tried; all others get `SENDABLE`.
_ADVICE: Final = {
    "numpy.ndarray": "send array.tolist()",
    "numpy.longdouble": "send float(number)",
    "numpy.clongdouble": "send complex(number)",
    "pydantic.types._SecretBase": "send secret.get_secret_value()",
    "builtins.range": "send list(numbers)",
    "builtins.generator": "send list(generator)",
    "builtins.dict_keys": "send list(keys)",
    "builtins.dict_values": "send list(values)",
    "builtins.dict_items": "send dict(items)",
    "builtins.mappingproxy": "send dict(mapping)",
}


def advice(kind: type) -> str | None:
    """Return the advice for a type that users often try to send; None for all others."""
    return by_name(kind, _ADVICE)


def no_form(kind: type) -> str:
    """Return the error for a type that can't be sent, and what to do instead."""
    return f"{kind.__qualname__} has no form on the wire; {advice(kind) or f'send one of: {SENDABLE}'}"


def by_name(kind: type, table: Mapping[str, V]) -> V | None:
    """Return the entry of a class, or of the nearest class that it inherits from, in a table of modules and names."""
    return next((table[name] for c in kind.__mro__ if (name := f"{c.__module__}.{c.__qualname__}") in table), None)


@dataclasses.dataclass(frozen=True, slots=True)
class Form:
    """How a type is written, and read where a type hint names it."""

    #: Returns what is sent for a value.
    plain: Callable[[Any], Any]
    #: The types of what is sent: the class rebuilds a value from one of these. Without any, no type hint can name it.
    kinds: tuple[type, ...]


_TEXT = Form(str, (str,))
_item = methodcaller("item")

#: The types that travel as other types: one table for values and for type hints. A form holds for subclasses too. A
#: class is found by its module and name, so that no library is imported for a type that the program does not use.
FORMS: Final[dict[str, Form]] = {
    "pathlib.PurePath": _TEXT,
    # The same class in Python 3.13.
    "pathlib._local.PurePath": _TEXT,
    "ipaddress.IPv4Address": _TEXT,
    "ipaddress.IPv6Address": _TEXT,
    "ipaddress.IPv4Network": _TEXT,
    "ipaddress.IPv6Network": _TEXT,
    "fractions.Fraction": Form(str, (str, int)),
    "builtins.complex": Form(str, (str, int, float)),
    "collections.deque": Form(list, (list,)),
    "collections.OrderedDict": Form(dict, (dict,)),
    "collections.Counter": Form(dict, (dict,)),
    "numpy.bool": Form(_item, (bool,)),
    "numpy.bool_": Form(_item, (bool,)),
    "numpy.integer": Form(_item, (int,)),
    "numpy.floating": Form(_item, (int, float)),
    "numpy.str_": Form(_item, (str,)),
    "numpy.bytes_": Form(_item, (bytes,)),
    # Its other scalars, such as datetime64, arrive as Python's.
    "numpy.generic": Form(_item, ()),
    "pydantic.networks._BaseUrl": _TEXT,
    "pydantic.networks._BaseMultiHostUrl": _TEXT,
}


def form_of(kind: type) -> Form | None:
    """Return the form of a class, or of the nearest class that it inherits from."""
    found = by_name(kind, FORMS)
    return None if found is None or advice(kind) is not None else found


def plain_form(value: Any, *, in_json: bool = False) -> Any:
    """Return the plain form of a value: a map of a dataclass's fields, an enum's value, a path's text.

    Raises:
        TypeError: It has no form.
    """
    return _writer(type(value), in_json)(value)  # type: ignore[arg-type] # mypy takes no class for hashable


@functools.lru_cache(maxsize=1024)
def _writer(kind: type, in_json: bool) -> Callable[[Any], Any]:
    if issubclass(kind, enum.Enum):
        return lambda member: member.value
    if issubclass(kind, msgspec.Struct):
        return _struct_writer(kind)
    form = form_of(kind)
    if form is not None:
        return form.plain
    if advice(kind) is not None:
        raise TypeError(no_form(kind))
    serializer = getattr(kind, "__pydantic_serializer__", None)
    if serializer is not None:
        mode = "json" if in_json else "python"
        # The model's own validation reads fields by their aliases, and no computed ones.
        return lambda model: serializer.to_python(model, mode=mode, by_alias=True, round_trip=True)
    if dataclasses.is_dataclass(kind):
        return _fields_writer([field.name for field in dataclasses.fields(kind)])
    if hasattr(kind, "__attrs_attrs__"):
        return _fields_writer([attribute.name for attribute in kind.__attrs_attrs__])
    raise TypeError(no_form(kind))


def _fields_writer(names: list[str]) -> Callable[[Any], Any]:
    return lambda value: {name: getattr(value, name) for name in names}


def _struct_writer(kind: type[msgspec.Struct]) -> Callable[[Any], Any]:
    """Return the writer of a Struct: with the names, the tag and the shape that its class asks for."""
    config = kind.__struct_config__
    if config.array_like:
        tag = [] if config.tag is None else [config.tag]
        return lambda value: [*tag, *(getattr(value, name) for name in kind.__struct_fields__)]
    names = list(zip(kind.__struct_encode_fields__, kind.__struct_fields__, strict=True))
    tagged = {} if config.tag_field is None else {config.tag_field: config.tag}
    return lambda value: tagged | {encoded: getattr(value, name) for encoded, name in names}
