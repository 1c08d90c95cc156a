"""Append-only records, one JSON object per line; they survive a kill -9 of the process that writes them.

A record is one `write` to a file that is open for appending: several processes may write to one file, and the kernel
keeps the record even if the process dies. All times are the machine's monotonic clock.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: The names of the files in a run's folder.
EXECUTIONS, CALLS, FAULTS = "executions", "calls", "faults"


class Record:
    """A file of records; safe from any thread."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, **fields: Any) -> None:
        """Append one record."""
        os.write(self._file, json.dumps(fields, separators=(",", ":")).encode() + b"\n")


def records(path: Path) -> Iterator[dict[str, Any]]:
    """Return the records of a file, without a last line that was cut off; none if there is no file."""
    if path.exists():
        for line in path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                yield json.loads(line)
