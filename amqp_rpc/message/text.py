"""Values as text for people: in errors, logs and lists."""

from __future__ import annotations

import logging
import reprlib
import traceback

#: The most characters of a line of the log, and of an error's text inside of one.
LONGEST_LINE, LONGEST_ERROR = 2000, 1000
#: The most characters of a traceback; its end is kept, where the cause is.
LONGEST_TRACEBACK = 20_000

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


def shortened(text: str, most: int = LONGEST_ERROR) -> str:
    """Return a text, or its beginning and its length if it is longer than so many characters."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)"


def printable(text: str) -> str:
    """Return a text on one line; unprintable characters are escaped, so that it can't control a terminal."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def bounded_logger(name: str) -> logging.Logger:
    """Return the logger of a module that logs what others wrote: each record is one line of bounded length.

    So is each line of its traceback, whatever a handler's exception has for a text.
    """
    logger = logging.getLogger(name)
    logger.addFilter(_bounded)
    return logger


def _bounded(record: logging.LogRecord) -> bool:
    line = record.getMessage()
    if (shown := shortened(printable(line), LONGEST_LINE)) != line:
        record.msg, record.args = shown, None
    # Only a formatter that asks for the usual text gets the shorter one: the exception itself stays whole.
    if record.exc_info and not record.exc_text and record.exc_info[0] is not None:
        text = "".join(traceback.format_exception(*record.exc_info)).removesuffix("\n")
        lines = [shortened(printable(each), LONGEST_LINE) for each in text.split("\n")]
        if (shown := "\n".join(lines)[-LONGEST_TRACEBACK:]) != text:
            record.exc_text = shown
    return True


def plural(count: int, one: str, many: str) -> str:
    """Return a number with the words that go with it.

    Example:
        >>> plural(1, "result was", "results were"), plural(0, "result was", "results were")
        ('1 result was', '0 results were')
    """
    return f"{count} {one if count == 1 else many}"
