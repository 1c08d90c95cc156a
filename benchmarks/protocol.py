"""The line protocol between the bench and a contender's client, and what its answers are checked against.

The bench writes a request as a line of JSON, ``{"case": "one", "seconds": 1.2, "size": 100}``, and gets a line back:
``{"calls": 1234, "seconds": 1.2}``, with ``"latencies"`` in milliseconds where the case has them; ``{"unsupported":
"why"}``; or ``{"error": "…"}``. A client goes on to the next line then, and ends with its standard input.

It runs in every contender's own environment: the standard library is all that it imports.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import traceback
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TextIO

Request = dict[str, Any]
Reply = dict[str, Any]

#: Seconds after which a client gives up a single call.
PATIENCE = 20.0
_NUMBER_WIDTH = 9


class WrongAnswerError(Exception):
    """A server answered something else than it was sent."""


class Payloads:
    """Bodies of a size, each with a number of its own, so that answers which were mixed up are noticed."""

    def __init__(self, size: int) -> None:
        self._rest = "x" * (size - _NUMBER_WIDTH)

    def __call__(self, number: int) -> str:
        """Return the body of a call."""
        return f"{number:0{_NUMBER_WIDTH}d}{self._rest}"


def check(sent: str, answer: object) -> None:
    """Raise `WrongAnswerError` unless the answer is what was sent."""
    if answer != sent:
        raise WrongAnswerError(f"sent {sent[:40]!r}, and got {str(answer)[:40]!r}")


def answer(cases: Mapping[str, Callable[[Request], Reply]]) -> None:
    """Measure what standard input asks for, until it ends."""
    out = _claim_stdout()
    for line in sys.stdin:
        request = json.loads(line)
        measure = cases.get(request["case"])
        try:
            reply = measure(request) if measure else _unsupported(request)
        except Exception as error:
            reply = _failed(error)
        print(json.dumps(reply), file=out, flush=True)


async def answer_async(cases: Mapping[str, Callable[[Request], Awaitable[Reply]]]) -> None:
    """Do the same for a client whose connection lives on this event loop."""
    out = _claim_stdout()
    while line := await asyncio.to_thread(sys.stdin.readline):
        request = json.loads(line)
        measure = cases.get(request["case"])
        try:
            reply = await measure(request) if measure else _unsupported(request)
        except Exception as error:
            reply = _failed(error)
        print(json.dumps(reply), file=out, flush=True)


def _claim_stdout() -> TextIO:
    """Return standard output, and leave standard error to libraries that print."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return out


def _unsupported(request: Request) -> Reply:
    return {"unsupported": f"no case {request['case']!r}"}


def _failed(error: Exception) -> Reply:
    traceback.print_exc()
    return {"error": f"{type(error).__name__}: {error}"[:300]}
