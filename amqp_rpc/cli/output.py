"""The output of commands: columns and local times for people, JSON for programs."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from datetime import datetime

from amqp_rpc.message import codec

#: The width of the last column in a terminal that is too narrow.
_NARROWEST = 20


def columns(titles: Sequence[str], rows: Sequence[Sequence[object]], *, width: int | None = None) -> str:
    """Return rows in columns under their titles; the last column is cut to fit the width of a line, if there is one.

    Numbers are aligned to the right, and line breaks in a cell become spaces.
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
    """Return the columns of the terminal; None if standard output is not a terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def as_json(value: object) -> str:
    """Return one line of JSON; times are ISO 8601."""
    return json.dumps(value, ensure_ascii=False, default=lambda other: other.isoformat())


def decoded_as_json(value: object) -> str:
    """Return a decoded message as JSON, in the types and form that `codec` gives them."""
    # The JSON of a msgpack body may be longer than the size limit of messages.
    return codec.encode(value, codec.JSON, limit=2**62).decode()


def local(time: datetime | None) -> str:
    """Return a time in the local zone, to the second."""
    return "-" if time is None else time.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _cut(text: str, size: int) -> str:
    return text if len(text) <= size else text[: size - 1] + "…"
