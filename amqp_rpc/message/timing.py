"""How long to wait: deadlines, and back-off between attempts. Nothing here sleeps or waits."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from amqp_rpc.errors import ConfigurationError

#: The longest timeout, in seconds (about 24 days): AMQP's expiration and the operating system's waits end there.
LONGEST = 2_000_000.0

#: By which part of itself a wait is longer or shorter, at random: gRPC's retries have the same,
#: https://github.com/grpc/proposal/blob/master/A6-client-retries.md
JITTER = 0.2
#: How often one call is sent, at most; gRPC has the same bound.
MOST_ATTEMPTS = 5
#: Seconds before a call is sent again, doubled each time, and the most.
FIRST_RETRY, LONGEST_RETRY = 0.1, 2.0


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point on the monotonic clock that bounds a whole operation.

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
            ConfigurationError: It is no number, or out of range.
        """
        if seconds is None:
            raise ConfigurationError(
                "timeout=None would wait for ever; give a number of seconds, a large one if need be"
            )
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise ConfigurationError(f"a timeout is a number of seconds, not {seconds!r}")
        if not 0 < seconds <= LONGEST:
            raise ConfigurationError(f"a timeout is more than 0 and at most {LONGEST:.0f} seconds, not {seconds!r}")
        return cls(time.monotonic() + seconds)

    def remaining(self) -> float:
        """Return the seconds that are left, 0.0 when it is over."""
        return max(0.0, self.at - time.monotonic())

    def expired(self) -> bool:
        """Return whether it is over."""
        return time.monotonic() >= self.at


def backoff(attempt: int, *, first: float, most: float, jitter: float = JITTER) -> float:
    """Return the seconds to wait after an attempt that failed: doubled each time, bounded, with jitter.

    The jitter keeps a thousand clients of one broker from coming back in the same instant:
    https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/

    Args:
        attempt: The number of attempts that have failed in a row.
        first: Seconds after the first one, before jitter.
        most: The longest wait, before jitter.
        jitter: Part of the wait by which it is longer or shorter.
    """
    # After 60 doublings any wait is past any bound, and a float's exponent does not overflow.
    wait = min(most, first * 2.0 ** min(attempt - 1, 60))
    return float(wait * random.uniform(1 - jitter, 1 + jitter))  # noqa: S311 - no secret


class RetryBudget:
    """A bound on a client's retries, which would multiply an outage: every result earns a part of a retry.

    A new budget has all that can be saved up. Source: "Throttling Retry Attempts" of gRPC's retry design (A6).
    """

    def __init__(self, *, most: float = 1000.0, earned: float = 0.1) -> None:
        self._most = most
        self._earned = earned
        self._left = most

    def take(self) -> bool:
        """Spend one retry; return whether there was one left."""
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def earn(self) -> None:
        """Count a result."""
        if self._left < self._most:
            self._left += self._earned
