"""Why a node did not start, from what it left in its logs, in one line."""

from __future__ import annotations

import re
from pathlib import Path

#: RabbitMQ's log lines begin with date, time, level and process.
_LINE = re.compile(r"^\d{4}-\d\d-\d\d \S+ \[(?P<level>\w+)\] <[^>]*> ?(?P<text>.*)$")
_LONGEST = 300


def reason(folder: Path) -> str:
    """Return the line that most likely says why, with the path of the log that has it."""
    for name in ("node.log", "console.log"):
        log = folder / name
        lines = _read(log)
        for line in lines:
            found = _LINE.match(line)
            if found and found["level"] in {"error", "critical"} and found["text"].strip(" ="):
                return f"{found['text'].strip()[:_LONGEST]} (log: {log})"
    for name in ("console.log", "node.log"):
        log = folder / name
        told = [line.strip() for line in _read(log) if any(letter.isalpha() for letter in line)]
        if told:
            return f"its last words: {told[-1][:_LONGEST]} (log: {log})"
    return f"it said nothing (log: {folder})"


def _read(log: Path) -> list[str]:
    try:
        return log.read_text(errors="replace").splitlines()
    except OSError:
        return []
