"""What is to be done later, kept until a test says that the time is over."""

from __future__ import annotations

from collections.abc import Callable


class Timers:
    """Stands for a loop whose time passes when the test says so."""

    def __init__(self) -> None:
        self.later: list[Callable[[], object]] = []

    def call_later(self, _delay: float, callback: Callable[[], object]) -> None:
        self.later.append(callback)

    def pass_time(self) -> None:
        due, self.later = self.later, []
        for callback in due:
            callback()
