"""What several commands print alike: columns for people, JSON for programs, and times as people write them."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import click

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_AGO = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
#: Characters that the last column has at least, however narrow the terminal is.
_NARROWEST = 20


def columns(titles: Sequence[str], rows: Sequence[Sequence[object]], *, width: int | None = None) -> str:
    """Return rows in columns under their titles; numbers stand at the right.

    Args:
        titles: One for each column.
        rows: A cell for each column; its text has one line.
        width: Characters of a line, for which the last column is cut; None for no limit.
    """
    texts = [[" ".join(str(cell).split()) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(titles), *texts]) for i in range(len(titles))]
    if width is not None:
        widths[-1] = min(widths[-1], max(_NARROWEST, width - sum(widths[:-1]) - 2 * (len(widths) - 1)))
    numbers = [bool(rows) and all(isinstance(row[i], int) or row[i] == "-" for row in rows) for i in range(len(titles))]

    def line(cells: Sequence[str]) -> str:
        placed = [
            _cut(cell, size).rjust(size) if number else _cut(cell, size).ljust(size)
            for cell, size, number in zip(cells, widths, numbers, strict=True)
        ]
        return "  ".join(placed).rstrip()

    return "\n".join(line(row) for row in [list(titles), *texts])


def terminal_width() -> int | None:
    """Return the characters of a line where a person reads, None where the output goes elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def as_json(value: object) -> str:
    """Return a value as one line of JSON; times are ISO 8601."""
    return json.dumps(value, ensure_ascii=False, default=lambda other: other.isoformat())


def local(time: datetime | None) -> str:
    """Return a time as the clock on the wall shows it, to the second."""
    return "-" if time is None else time.astimezone().strftime("%Y-%m-%d %H:%M:%S")


class Time(click.ParamType):  # type: ignore[type-arg] # generic in the newest versions of click only
    """A time: ISO 8601, of the local zone unless it names one; or with ``ago`` so long ago, such as ``90m``.

    Args:
        ago: Whether it may be a length of time.
    """

    name = "time"

    def __init__(self, *, ago: bool) -> None:
        self._ago = ago

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Return the time that a text stands for."""
        if isinstance(value, datetime):
            return value
        if self._ago and (match := _AGO.fullmatch(value.removesuffix("ago").strip())):
            number, unit = match.groups()
            return datetime.now(UTC) - timedelta(**{_UNITS[unit]: float(number)})
        try:
            # Without a zone it is the local one.
            return datetime.fromisoformat(value).astimezone()
        except ValueError:
            ago = ", nor a length of time such as 90s, 15m, 2h or 7d" if self._ago else ""
            self.fail(f"{value!r} is no time in ISO 8601 such as 2026-01-31T12:00{ago}", param, ctx)


def _cut(text: str, size: int) -> str:
    return text if len(text) <= size else text[: size - 1] + "…"
