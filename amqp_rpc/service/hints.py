"""Type hints: which ones can be sent, and how values are converted to them.

msgspec does the conversion: https://jcristharif.com/msgspec/supported-types.html. The types of `text.FORMS` are
rebuilt here, as the same table writes them. pydantic validates a hint that uses it, and is never imported here: a
program whose hints use it has done so. It is a seam: a signature binds arguments, and this converts each.
"""

from __future__ import annotations

import collections.abc
import contextlib
import dataclasses
import sys
import types
import typing
from collections.abc import Iterator
from datetime import datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

import msgspec
from msgspec import inspect as described

from amqp_rpc.message import codec
from amqp_rpc.message.text import SENDABLE, advice, form_of, no_form

#: The types that need no conversion.
_EXACT = frozenset({int, str, bytes, bool, float, list, dict, type(None)})
_BYTES = (bytes,)

#: More hints that are accepted, beside the types of values.
_BESIDE = "Any, object, Literal, Annotated, NewType, generics and unions of these"

#: The descriptions of types that have no hash once they have arrived.
_NEVER_KEYS = (
    described.DataclassType
    | described.StructType
    | described.TypedDictType
    | described.DictType
    | described.ListType
    | described.SetType
    | described.ByteArrayType
)

#: The types whose hashes are not salted, by their descriptions: see `codec`.
_UNSALTED: dict[Any, Any] = {
    described.IntType: int,
    described.FloatType: float,
    described.DecimalType: Decimal,
    described.UUIDType: UUID,
    described.DateTimeType: datetime,
    described.TimeType: time,
    described.TimeDeltaType: timedelta,
}
_ALL_KEYS = tuple(_UNSALTED.values())


class Hint:
    """A type hint that was checked, and the conversion to it.

    Args:
        hint: It; see `problem` for those that can't be sent.
    """

    __slots__ = ("_adapter", "_keys", "exact", "hint", "raw")

    def __init__(self, hint: Any) -> None:
        self.hint: Any = hint
        #: The type whose values need no conversion.
        self.exact: type | None = hint if isinstance(hint, type) and hint in _EXACT else None
        self._adapter = _adapter(hint)
        #: What text may become as a key of a map or an element of a set; None if it has none whose hashes collide.
        self._keys = _keys_of(hint) if self._adapter is None else _ALL_KEYS
        #: Whether it takes bytes and nothing else: then a body of text or bytes stays as it is.
        self.raw: bool = self._adapter is None and _only_bytes(hint)

    def convert(self, value: Any, *, binary: bool, strict: bool = True) -> Any:
        """Return a value as the hint's type.

        Args:
            value: It.
            binary: Whether its content type has bytes, and maps whose keys are no text.
            strict: Whether text is never taken for a number.

        Raises:
            msgspec.ValidationError: It is of another type.
        """
        if type(value) is self.exact or self.hint is Any:
            return value
        if self._keys is not None:
            _check_hashes(value, self._keys)
        if self._adapter is not None:
            return _validated(self._adapter, value)
        return msgspec.convert(
            value,
            self.hint,
            strict=strict,
            builtin_types=_BYTES if binary else None,
            str_keys=not binary,
            dec_hook=_rebuilt,
        )


def _keys_of(hint: Any) -> tuple[Any, ...] | None:
    try:
        parts = list(_kinds(described.type_info(hint)))
    except TypeError:
        return None
    keys = [part.key_type for part in parts if isinstance(part, described.DictType)]
    keys += [part.item_type for part in parts if isinstance(part, described.SetType | described.FrozenSetType)]
    kinds = [kind for key in keys for kind in _kinds(key)]
    # A Counter and an OrderedDict are classes to msgspec, with any keys.
    mapped = any(isinstance(part, described.CustomType) and issubclass(part.cls, dict) for part in parts)
    if mapped or any(isinstance(kind, described.AnyType) for kind in kinds):
        return _ALL_KEYS
    found = {kind.cls if isinstance(kind, described.CustomType) else _UNSALTED.get(type(kind)) for kind in kinds}
    return tuple(found - {None}) or None


def _check_hashes(value: Any, texts: tuple[Any, ...]) -> None:
    """Check the hashes of what a value has in lists and maps: each of them may become a set, or a map with other keys.

    Args:
        value: It, as it arrived.
        texts: What text in it may become.

    Raises:
        msgspec.ValidationError: Too many are the same.
    """
    if type(value) not in (list, dict):
        return
    # The inner ones first: a list may be an element of a set.
    for each in value.values() if type(value) is dict else value:
        _check_hashes(each, texts)
    if len(value) <= codec.FEW_KEYS:
        return
    words = [each for each in value if type(each) is str]
    others = [each for each in value if type(each) is not str]
    try:
        codec.check_hashes(list(_hashable(others, tuple)))
        codec.check_hashes(list(_hashable(others, frozenset)))
        for kind in texts if len(words) > codec.FEW_KEYS else ():
            codec.check_hashes(list(_read(words, kind)))
    except ValueError as error:
        raise msgspec.ValidationError(str(error)) from None


def _hashable(values: list[Any], kind: type[tuple[Any, ...] | frozenset[Any]]) -> Iterator[Any]:
    """Yield those of some values that can be elements of a set, where a list is a tuple, or a frozenset."""
    for value in values:
        with contextlib.suppress(TypeError):
            element = kind(_hashable(value, kind)) if type(value) is list else value
            hash(element)
            yield element


def _read(words: list[str], kind: Any) -> Iterator[Any]:
    """Yield what those texts are that can be read as a type; a wrong one behind them must not hide the others."""
    with contextlib.suppress(Exception):
        yield from msgspec.convert(words, list[kind], strict=False, dec_hook=_rebuilt)
        return
    for word in words:
        with contextlib.suppress(Exception):
            yield msgspec.convert(word, kind, strict=False, dec_hook=_rebuilt)


def problem(hint: Any) -> str | None:
    """Return why a parameter can't have a type hint: its values can't be sent; None for one that is right."""
    if _adapter(hint) is not None:
        return None
    try:
        # Only to make msgspec raise for unions whose members it can't tell apart.
        msgspec.msgpack.Decoder(hint)
    except TypeError as error:
        return str(error)
    return _unsendable(hint)


def problem_of_result(hint: Any) -> str | None:
    """Return why a function's result can't be sent; None where it may be. A hint that msgspec does not know may be."""
    hint = _awaited(hint)
    if hint in (typing.NoReturn, typing.Never) or _adapter(hint) is not None:
        return None
    return _unsendable(hint)


def result_hint(hint: Any) -> Hint:
    """Return the hint of a result, or Any if results can't be converted to it: then they stay as they are."""
    hint = _awaited(hint)
    if _adapter(hint) is None:
        try:
            msgspec.msgpack.Decoder(hint)
        except TypeError:
            return Hint(Any)
        if _unsendable(hint) is not None:
            return Hint(Any)
    return Hint(hint)


def name_of(hint: Any) -> str:
    """Return a type hint as a person writes it."""
    return hint.__qualname__ if isinstance(hint, type) else str(hint).replace("typing.", "")


def _awaited(hint: Any) -> Any:
    """Return the type of what a function returns in the end, if it returns an awaitable."""
    if typing.get_origin(hint) in (collections.abc.Awaitable, collections.abc.Coroutine):
        return typing.get_args(hint)[-1]
    return hint


def _unsendable(hint: Any) -> str | None:
    try:
        kinds = list(_kinds(described.type_info(hint)))
    except TypeError:
        return None
    for kind in kinds:
        if (why := _kind_problem(kind)) is not None:
            return why
    return None


def _kind_problem(kind: Any) -> str | None:
    if isinstance(kind, described.CustomType):
        return _class_problem(kind.cls)
    if isinstance(kind, described.RawType | described.ExtType):
        return f"msgspec's {type(kind).__name__.removesuffix('Type')} can't be sent; take bytes"
    if isinstance(kind, described.DateTimeType) and kind.tz is False:
        return "a datetime without a time zone can't be sent; take one with it"
    if isinstance(kind, described.DictType):
        return _key_problem(kind.key_type, "a key of a dict")
    if isinstance(kind, described.SetType | described.FrozenSetType):
        return _key_problem(kind.item_type, "an element of a set")
    return None


def _class_problem(cls: type) -> str | None:
    if cls is object or _is_pydantic(cls):
        return None
    form = form_of(cls)
    if form is not None and form.kinds:
        return None
    told = advice(cls)
    instead = f"{told} instead" if told else f"take one of: {SENDABLE}; {_BESIDE}"
    return f"{cls.__qualname__} can't be sent; {instead}"


def _key_problem(key: Any, role: str) -> str | None:
    """Return why a type can't be a key of a map, or an element of a set: it arrives as something without a hash."""
    for kind in _kinds(key, into=described.UnionType | described.TupleType | described.VarTupleType):
        # msgspec rebuilds no key.
        custom = isinstance(kind, described.CustomType) and kind.cls is not object and role == "a key of a dict"
        if isinstance(kind, _NEVER_KEYS) or custom:
            cls = getattr(kind, "cls", None)
            name = cls.__qualname__ if cls is not None else type(kind).__name__.removesuffix("Type").lower()
            return f"{name} can't be {role}, as it is no such thing once it has arrived; take text, a number or a tuple"
    return None


def _kinds(info: Any, *, into: Any = object) -> Iterator[Any]:
    """Yield a type's description and those of its parts; of types ``into`` which it should not look, themselves."""
    seen: list[Any] = []
    waiting = [info]
    while waiting:
        kind = waiting.pop()
        if any(kind is known for known in seen):
            continue
        seen.append(kind)
        yield kind
        if not isinstance(kind, into):
            continue
        for name in getattr(kind, "__struct_fields__", ()):
            value = getattr(kind, name)
            waiting.extend(v for v in (value if isinstance(value, tuple) else (value,)) if isinstance(v, _DESCRIBED))


_DESCRIBED = (described.Type, described.Field)


def _only_bytes(hint: Any) -> bool:
    wanted = described.BytesType | described.ByteArrayType | described.MemoryViewType
    info = described.type_info(hint)
    parts = [part for part in getattr(info, "types", [info]) if not isinstance(part, described.NoneType)]
    return bool(parts) and all(isinstance(part, wanted) for part in parts)


def _rebuilt(kind: Any, value: Any) -> Any:
    """Return the value of a type that msgspec does not know, from what was sent for it.

    Raises:
        ValueError, TypeError: It can't be one.
    """
    cls = typing.get_origin(kind) or kind
    if isinstance(value, cls):
        return value
    adapter = _adapter(kind)
    if adapter is not None:
        return _validated(adapter, value)
    form = form_of(cls)
    if form is None:
        raise TypeError(no_form(cls))
    if list in form.kinds or dict in form.kinds:
        return cls(_collected(kind, cls, value))
    if isinstance(value, str) and issubclass(cls, Fraction) and "e" in value.lower():
        raise ValueError("A fraction is two whole numbers: the power of ten of a few letters may fill all memory")
    if not isinstance(value, form.kinds) or (isinstance(value, bool) and bool not in form.kinds):
        names = " | ".join(each.__name__ for each in form.kinds)
        raise ValueError(f"Expected `{cls.__name__}` as `{names}`, got `{type(value).__name__}`")
    return cls(value)


def _collected(kind: Any, cls: type, value: Any) -> Any:
    """Return the list or the map of a deque, an OrderedDict or a Counter, with its parts converted."""
    args = typing.get_args(kind)
    if issubclass(cls, collections.Counter):
        args = (*args, int) if args else (Any, int)
    plain = list if issubclass(cls, collections.deque) else dict
    return msgspec.convert(value, types.GenericAlias(plain, args) if args else plain, dec_hook=_rebuilt)


def _adapter(hint: Any) -> Any:
    """Return pydantic's validator of a hint that uses pydantic; None for all others."""
    pydantic = sys.modules.get("pydantic")
    if pydantic is None or not _uses_pydantic(hint, set()):
        return None
    try:
        return pydantic.TypeAdapter(hint)
    # A class that pydantic does not know is beside it in the hint.
    except Exception:
        return None


def _uses_pydantic(hint: Any, seen: set[Any]) -> bool:
    try:
        if hint in seen:
            return False
        seen.add(hint)
    except TypeError:
        return False
    if any(_is_pydantic(each) for each in (hint, *getattr(hint, "__metadata__", ()))):
        return True
    parts = list(typing.get_args(hint))
    if isinstance(hint, type) and (dataclasses.is_dataclass(hint) or hasattr(hint, "__total__") or _named_tuple(hint)):
        try:
            parts += typing.get_type_hints(hint, include_extras=True).values()
        except NameError:
            return False
    return any(_uses_pydantic(part, seen) for part in parts)


def _is_pydantic(part: Any) -> bool:
    if hasattr(part, "__get_pydantic_core_schema__") or hasattr(part, "__pydantic_core_schema__"):
        return True
    return type(part).__module__.partition(".")[0] in ("pydantic", "annotated_types")


def _named_tuple(cls: type) -> bool:
    return issubclass(cls, tuple) and hasattr(cls, "_fields")


def _validated(adapter: Any, value: Any) -> Any:
    try:
        return adapter.validate_python(value)
    except ValueError as error:
        raise msgspec.ValidationError(_first(error)) from None


def _first(error: Any) -> str:
    """Return pydantic's first error in one line, as msgspec writes its own."""
    if not hasattr(error, "errors"):
        return str(error)
    found = error.errors(include_url=False, include_context=False, include_input=False)
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in found[0]["loc"])
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return f"{found[0]['msg']}{more}{f' - at `${path}`' if path else ''}"
