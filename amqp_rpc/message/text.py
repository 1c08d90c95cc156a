"""Values as text for people: in errors, logs and lists."""

from __future__ import annotations

import reprlib

_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = 60


def brief(value: object) -> str:
    """Return a value's text for one line of a message; its type's name where it has none."""
    try:
        return _brief.repr(value)
    # repr() runs the value's own code, and refuses an int of more than 4 300 digits.
    except Exception:
        return f"<{type(value).__qualname__}>"


def text_of(value: object) -> str:
    """Return ``str(value)``, or that it has none: an exception's own code must not keep it out of a log."""
    try:
        # Half of a surrogate pair is text in Python and nowhere else.
        return str(value).encode(errors="backslashreplace").decode()
    except Exception as error:
        return f"({type(value).__qualname__}, whose text raises {type(error).__name__})"


def plural(count: int, one: str, many: str) -> str:
    """Return a number with the words that go with it.

    Example:
        >>> plural(1, "result was", "results were"), plural(0, "result was", "results were")
        ('1 result was', '0 results were')
    """
    return f"{count} {one if count == 1 else many}"
