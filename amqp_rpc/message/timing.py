"""How long to wait: deadlines, back-off between attempts, and the pace of equal log lines. Nothing here waits."""

from __future__ import annotations

import random
import re
import threading
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from numbers import Integral, Real
from typing import Any, TypeAlias

from amqp_rpc.errors import ConfigurationError

#: Seconds as users give them: 2.5, ``timedelta(minutes=5)``.
Seconds: TypeAlias = float | timedelta

#: The longest timeout, in seconds (about 24 days): AMQP's expiration and the operating system's waits end there.
LONGEST = 2_000_000.0

#: By which part of itself a wait is longer or shorter, at random: gRPC's retries have the same,
#: https://github.com/grpc/proposal/blob/master/A6-client-retries.md
JITTER = 0.2
#: How often one call is sent, at most; gRPC has the same bound.
MOST_ATTEMPTS = 5
#: Seconds before a call is sent again, doubled each time, and the most.
FIRST_RETRY, LONGEST_RETRY = 0.1, 2.0
#: Seconds from a log line to the next equal one, doubled each time, and the most.
FIRST_LINE, LONGEST_LINE = 30.0, 3600.0
#: The different lines that `Repeats` tells apart; all others count as one.
_MOST_LINES = 20
#: The parts that differ in lines which are equal otherwise: a queue named by the broker, and a process of Erlang.
_NUMBERED = re.compile(r"amq\.gen-[\w-]+|<[\d.]+>")


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point on the monotonic clock that bounds a whole operation.

    Example:
        >>> Deadline.after(2.5).remaining() <= 2.5
        True
    """

    at: float

    @classmethod
    def after(cls, seconds: Seconds | None) -> Deadline:
        """Return the deadline that many seconds from now.

        Args:
            seconds: More than 0, at most `LONGEST`.

        Raises:
            ConfigurationError: It is no number, or out of range.
        """
        return cls(time.monotonic() + timeout_of(seconds))

    def remaining(self) -> float:
        """Return the seconds that are left, 0.0 when it is over."""
        return max(0.0, self.at - time.monotonic())

    def expired(self) -> bool:
        """Return whether it is over."""
        return time.monotonic() >= self.at


@dataclass(frozen=True, slots=True)
class Expiry:
    """A time after which nothing starts any more: a number of seconds from each message, or one moment for all."""

    seconds: float
    moment: float | None = None

    @classmethod
    def of(cls, expires: Seconds | datetime, *, now: float, most: float) -> Expiry:
        """Return what ``expires=`` says.

        Args:
            expires: Seconds, or a time with its zone.
            now: The Unix time.
            most: The most seconds.

        Raises:
            ConfigurationError: It is neither, or out of range, or over.
        """
        if isinstance(expires, datetime):
            moment = moment_of("expires", expires)
            if moment <= now:
                raise ConfigurationError(f"expires={expires!r} is over already: it would never run")
            return cls(moment - now, moment)
        seconds = seconds_of(expires)
        if seconds is None or not 0 < seconds <= most:
            raise ConfigurationError(
                f"expires must be a number above 0 and at most {most:g}, a timedelta, or a datetime with its zone, "
                f"not {expires!r}"
            )
        return cls(seconds)

    def at(self, now: float) -> float:
        """Return the Unix time at which a message of this moment expires."""
        return now + self.seconds if self.moment is None else self.moment


def seconds_of(value: Any) -> float | None:
    """Return a number of seconds: of a number of any kind (numpy's, say), or of a `timedelta`; None for other values.

    Example:
        >>> seconds_of(timedelta(minutes=5)), seconds_of(2), seconds_of("2"), seconds_of(True)
        (300.0, 2, None, None)
    """
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, int | float):
        return None if isinstance(value, bool) else value
    return float(value) if isinstance(value, Real) else None


def whole(value: Any) -> int | None:
    """Return a whole number of any kind (numpy's, say) as an int; None for other values, and for a bool.

    Example:
        >>> whole(5), whole(5.0), whole(True)
        (5, None, None)
    """
    return int(value) if not isinstance(value, bool) and isinstance(value, Integral) else None


def timeout_of(timeout: Seconds | None) -> float:
    """Return the seconds of a timeout.

    Raises:
        ConfigurationError: It is no number of seconds, or out of range.
    """
    if timeout is None:
        raise ConfigurationError("timeout=None would wait for ever; give a number of seconds, a large one if need be")
    seconds = seconds_of(timeout)
    if seconds is None:
        raise ConfigurationError(f"a timeout is a number of seconds, not {timeout!r}")
    if not 0 < seconds <= LONGEST:
        raise ConfigurationError(f"a timeout is more than 0 and at most {LONGEST:.0f} seconds, not {timeout!r}")
    return seconds


def moment_of(name: str, value: Any) -> float:
    """Return the Unix time of a `datetime`.

    Raises:
        ConfigurationError: It is none, or has no time zone.
    """
    if not isinstance(value, datetime):
        raise ConfigurationError(
            f"{name} is a datetime with a time zone, datetime.now(UTC) + timedelta(hours=1), not {value!r}"
        )
    if value.utcoffset() is None:
        raise ConfigurationError(f"{name} has no time zone: {value!r}; datetime.now(UTC) + … has one")
    return value.timestamp()


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


class Repeats:
    """Decides which of many equal log lines are written: the first, some at growing intervals, and the end.

    Any thread may use it.

    Example:
        >>> repeats = Repeats()
        >>> for _ in range(100):
        ...     if (times := repeats.again("refused")) is not None:
        ...         print("refused; trying again" + times)
        refused; trying again
        >>> repeats.over()
        '; 100 times in 0 s'
    """

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}
        self._lock = threading.Lock()

    def again(self, text: str) -> str | None:
        """Count a line; return the words for its end, empty for the first one, or None if it is not to be written."""
        now = time.monotonic()
        text = _NUMBERED.sub("…", text)
        with self._lock:
            if text not in self._lines and len(self._lines) >= _MOST_LINES:
                # Those that have not come for long make room.
                self._lines = {each: line for each, line in self._lines.items() if now < line.due + line.pause}
                text = text if len(self._lines) < _MOST_LINES else ""
            line = self._lines.setdefault(text, _Line(since=now, due=now))
            line.count += 1
            if now < line.due:
                line.kept_back = True
                return None
            line.due, line.kept_back = now + line.pause, False
            line.pause = min(2 * line.pause, LONGEST_LINE)
            return line.times(now)

    def over(self) -> str | None:
        """Forget all lines: what they said has ended. Return the words for the end of a line that says so.

        None if each line was written, so that there is nothing to add.
        """
        with self._lock:
            kept = [line for line in self._lines.values() if line.kept_back]
            self._lines.clear()
        return max(kept, key=lambda line: line.count).times(time.monotonic()) if kept else None

    def __len__(self) -> int:
        """Return the number of different lines since the last end."""
        return len(self._lines)


@dataclass(slots=True)
class _Line:
    since: float
    #: When it is to be written, and the seconds until the next time.
    due: float
    pause: float = FIRST_LINE
    count: int = 0
    kept_back: bool = False

    def times(self, now: float) -> str:
        return f"; {self.count} times in {now - self.since:.0f} s" if self.count > 1 else ""


class RetryBudget:
    """A bound on a client's retries, which would multiply an outage: every result earns a part of a retry.

    A new budget has all that can be saved up. Source: "Throttling Retry Attempts" of gRPC's retry design (A6).
    """

    def __init__(self, *, most: float = 1000.0, earned: float = 0.1) -> None:
        self._most = most
        self._earned = earned
        self._left = most

    def spend(self) -> bool:
        """Spend one retry; return whether there was one left."""
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def earn(self) -> None:
        """Count a result."""
        if self._left < self._most:
            self._left += self._earned
