"""Choices that are read from bytes: the same bytes make the same choices."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import ClassVar, TypeVar

T = TypeVar("T")


class Draw:
    """Reads choices from bytes. Behind their end every choice is the first one, so that every input has an end."""

    #: Exceptions that are not the target's.
    PASSES: ClassVar[tuple[type[BaseException], ...]] = (KeyboardInterrupt,)

    def __init__(self, data: bytes) -> None:
        #: The bytes that make these choices.
        self.data = data
        self._position = 0

    @property
    def over(self) -> bool:
        """True once all bytes are used."""
        return self._position >= len(self.data)

    def number(self, most: int) -> int:
        """Return a number from 0 to ``most``."""
        if most < 1 << 8:
            at = self._position
            self._position = at + 1
            return self.data[at] % (most + 1) if at < len(self.data) else 0
        size = 2 if most < 1 << 16 else 8
        return int.from_bytes(self.octets(size).ljust(size, b"\0"), "big") % (most + 1)

    def one(self, of: Sequence[T]) -> T:
        """Return one of some values."""
        return of[self.number(len(of) - 1)]

    def some(self, of: Sequence[T], most: int) -> list[T]:
        """Return up to so many of some values, each of them once at most."""
        return list(dict.fromkeys(self.one(of) for _ in range(self.number(most))))

    def chance(self, percent: int) -> bool:
        """Return True in so many of a hundred cases; False behind the end."""
        return not self.over and self.number(99) < percent

    def octets(self, count: int) -> bytes:
        """Return so many bytes, or those that are left."""
        found = self.data[self._position : self._position + count]
        self._position += count
        return found

    def double(self) -> float:
        """Return any floating point number."""
        return float(struct.unpack(">d", self.octets(8).ljust(8, b"\0"))[0])
