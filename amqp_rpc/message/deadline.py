"""One absolute point in time that bounds everything an operation does; it never sleeps and never waits."""

from __future__ import annotations

import time
from dataclasses import dataclass

from amqp_rpc.errors import ConfigurationError

#: The longest timeout, in seconds (about 24 days): AMQP's expiration and the operating system's waits end there.
LONGEST = 2_000_000.0


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point on the monotonic clock.

    Example:
        >>> Deadline.after(2.5).remaining() <= 2.5
        True
    """

    at: float

    @classmethod
    def after(cls, seconds: float | None) -> Deadline:
        """Return the deadline that many seconds from now.

        Args:
            seconds: More than 0, at most `LONGEST`.

        Raises:
            ConfigurationError: The timeout is None, not a number, or out of range.
        """
        if seconds is None:
            msg = "timeout=None would wait for ever; give a number of seconds, a large one if need be"
            raise ConfigurationError(msg)
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            msg = f"a timeout is a number of seconds, not {seconds!r}"
            raise ConfigurationError(msg)
        if not 0 < seconds <= LONGEST:
            msg = f"a timeout is more than 0 and at most {LONGEST:.0f} seconds, not {seconds!r}"
            raise ConfigurationError(msg)
        return cls(time.monotonic() + seconds)

    def remaining(self) -> float:
        """Return the seconds that are left, 0.0 when it is over."""
        return max(0.0, self.at - time.monotonic())

    def expired(self) -> bool:
        """Return whether it is over."""
        return time.monotonic() >= self.at
