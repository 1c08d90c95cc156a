"""Waiting for a condition, with a deadline: what tests do instead of sleeping for a guessed time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_pause = threading.Event()


def until(condition: Callable[[], T], *, timeout: float = 20.0, what: str = "the condition") -> T:
    """Wait until the condition is true, and return its result; fail the test if it is not true in time."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {timeout:g} s for {what}"
        _pause.wait(0.01)
    return value
