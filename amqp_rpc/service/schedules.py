"""Schedules of tasks: intervals and cron expressions. Pure: this module reads no clock.

Times are whole milliseconds since the Unix epoch. Every server computes the same ticks for a schedule, so that servers
need not talk about them.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Protocol
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from amqp_rpc.errors import ConfigurationError
from amqp_rpc.message.envelope import Message, Properties, task_properties
from amqp_rpc.message.headers import SCHEDULE, TICK
from amqp_rpc.message.timing import Seconds, seconds_of

#: Seconds between two ticks, at least and at most.
SHORTEST_INTERVAL, LONGEST_INTERVAL = 0.1, 366 * 86_400.0
#: Part of a millisecond by which a number of seconds may be off: binary fractions are not exact.
_TOLERANCE = 1e-6
#: Missed ticks of a cron expression that are counted: each one must be computed.
MOST_COUNTED = 1000

_UNITS = {"d": 86_400, "h": 3600, "m": 60, "s": 1}
_NUMBER = r"\d+(?:\.\d+)?"
_INTERVAL = re.compile("".join(rf"(?:({_NUMBER}){unit})?" for unit in _UNITS))
#: Names for expressions: https://manpages.debian.org/bookworm/cron/crontab.5.en.html
_NAMED = {
    "@HOURLY": "0 * * * *",
    "@DAILY": "0 0 * * *",
    "@MIDNIGHT": "0 0 * * *",
    "@WEEKLY": "0 0 * * 0",
    "@MONTHLY": "0 0 1 * *",
    "@YEARLY": "0 0 1 1 *",
    "@ANNUALLY": "0 0 1 1 *",
}
_FIELDS = "minute hour day-of-month month day-of-week"
_RIGHT = '"*/5 * * * *" is every five minutes, "30 2 * * MON-FRI" 02:30 on working days'
#: The namespace of the ids of ticks: https://www.rfc-editor.org/rfc/rfc9562#name-uuid-version-5
_TICKS = uuid.uuid5(uuid.NAMESPACE_OID, "amqp_rpc.tick")


class Times(Protocol):
    """The ticks of a schedule."""

    def after(self, moment: int) -> int:
        """Return the first tick after a moment."""

    def missed(self, moment: int, now: int) -> tuple[int, int] | None:
        """Return the latest tick after a moment and not after now, and the number of them; None for none."""


@dataclass(frozen=True, slots=True)
class Every:
    """Ticks at the whole multiples of an interval since the Unix epoch: ``1h`` is at every full hour in UTC.

    Args:
        interval: Milliseconds.
    """

    interval: int

    @classmethod
    def parse(cls, interval: str | Seconds) -> Every:
        """Read an interval: seconds, a `timedelta`, or text such as ``"30s"``, ``"5m"``, ``"1h30m"``, ``"1d"``.

        Raises:
            ConfigurationError: It is no interval, or it is out of range.
        """
        seconds = _seconds(interval)
        if seconds is None:
            raise ConfigurationError(f'{interval!r} is no interval: "30s", "5m", "1h30m", "1d", or a number of seconds')
        if not SHORTEST_INTERVAL <= seconds <= LONGEST_INTERVAL:
            raise ConfigurationError(
                f"an interval is from {SHORTEST_INTERVAL:g} s to {LONGEST_INTERVAL / 86_400:g} days, not {interval!r}"
            )
        milliseconds = round(seconds * 1000)
        if abs(milliseconds - seconds * 1000) > _TOLERANCE:
            raise ConfigurationError(f"an interval is of whole milliseconds, and {interval!r} is not")
        return cls(milliseconds)

    def after(self, moment: int) -> int:
        """Return the first tick after a moment."""
        return (moment // self.interval + 1) * self.interval

    def missed(self, moment: int, now: int) -> tuple[int, int] | None:
        """Return the latest tick after a moment and not after now, and the number of them; None for none."""
        count = now // self.interval - moment // self.interval
        return (now // self.interval * self.interval, count) if count > 0 else None

    def __str__(self) -> str:
        return f"every {self.interval / 1000:.10g} s"


@dataclass(frozen=True, slots=True)
class Cron:
    """Ticks by a cron expression, on the clocks of a time zone.

    When the clocks go forward, ticks in the skipped hour are due right after it; when they go back, a tick in the
    repeated hour is due once. An expression whose minutes or hours begin with ``*`` follows the time that really
    passes. Debian's cron does the same: https://manpages.debian.org/bookworm/cron/cron.8.en.html

    Args:
        expression: Five fields (minute, hour, day of the month, month, day of the week), or six with seconds first.
        zone: The time zone.
    """

    expression: str
    zone: ZoneInfo = field(default_factory=lambda: ZoneInfo("UTC"))

    @classmethod
    def parse(cls, expression: str, timezone: str = "UTC") -> Cron:
        """Read an expression.

        Args:
            expression: Such as ``"*/5 * * * *"``.
            timezone: A name of the IANA data base, such as ``"Europe/Berlin"``.

        Raises:
            ConfigurationError: It is no expression, it never comes true, or there is no such time zone.
        """
        try:
            zone = ZoneInfo(timezone)
        # A key that is a folder, or leads out of it, raises what the file system does.
        except (KeyError, ValueError, TypeError, AttributeError, OSError) as error:
            raise ConfigurationError(
                f'there is no time zone {timezone!r}: "UTC", "Europe/Berlin" and others of the IANA data base; where '
                "the system has none (Windows, small containers), `pip install tzdata`"
            ) from error
        if not isinstance(expression, str):
            raise ConfigurationError(f"{expression!r} is no cron expression, which is text: {_RIGHT}")
        fields = " ".join(expression.upper().split())
        made = cls(_NAMED.get(fields, fields), zone)
        try:
            made.after(0)
        except CronSimError as error:
            said = str(error).lower()
            if fields.startswith("@"):
                said = f"the names are {', '.join(_NAMED).lower()}"
            elif "fields" in said:
                said = f"it has {len(expression.split())} fields, and not the five {_FIELDS} (or six, seconds first)"
            raise ConfigurationError(f"{expression!r} is no cron expression: {said}. {_RIGHT}") from error
        except StopIteration as error:
            raise ConfigurationError(f"{expression!r} never comes true: no such day is in the calendar") from error
        return made

    def after(self, moment: int) -> int:
        """Return the first tick after a moment."""
        return next(self._ticks(moment))

    def missed(self, moment: int, now: int) -> tuple[int, int] | None:
        """Return the latest tick after a moment and not after now, and their number up to `MOST_COUNTED`."""
        counted = 0
        latest = None
        for tick in islice(self._ticks(moment), MOST_COUNTED):
            if tick > now:
                break
            counted, latest = counted + 1, tick
        if latest is not None and counted == MOST_COUNTED:
            latest = max(latest, self._latest(now))
        return None if latest is None else (latest, counted)

    def _latest(self, now: int) -> int:
        """Return the latest tick until now; the caller knows that one exists."""
        # A search backwards from the hour that clocks show twice may end a day too early: go on from there.
        latest = next(tick for tick in self._search(now + 1000, reverse=True) if tick <= now)
        for tick in self._ticks(latest):
            if tick > now:
                break
            latest = tick
        return latest

    def _ticks(self, moment: int) -> Iterator[int]:
        """Yield the ticks after a moment, each after the one before."""
        for tick in self._search(moment):
            # CronSim may repeat a tick, or go back, when the clocks go forward or back.
            if tick > moment:
                yield tick
                moment = tick

    def _search(self, moment: int, *, reverse: bool = False) -> Iterator[int]:
        start = datetime.fromtimestamp(moment // 1000, self.zone)
        found = CronSim(self.expression, start, reverse=reverse)
        for tick in found:
            yield round(tick.timestamp()) * 1000

    def __str__(self) -> str:
        return f"cron {self.expression} {self.zone.key}"


@dataclass(frozen=True, slots=True)
class Schedule:
    """A task and its ticks.

    Args:
        name: Its identity, for all servers and versions of a service: ``billing.charge: every 300 s``.
        queue: The task's queue.
        function: The task's name.
        times: The ticks.
        body: The task's arguments, encoded.
        priority: The task's priority; None for none.
    """

    name: str
    queue: str
    function: str
    times: Times
    body: bytes = field(repr=False)
    priority: int | None = None

    def message(self, tick: int, *, now: float) -> Message:
        """Return the task's message for a tick; every server gives it the same id."""
        properties: Properties = task_properties(
            function=self.function,
            identity=tick_id(self.name, tick),
            expires=None,
            now=now,
            priority=self.priority,
        )
        properties.headers = {**(properties.headers or {}), SCHEDULE: self.name, TICK: str(tick)}
        return Message(self.queue, properties, self.body)


def tick_id(schedule: str, tick: int) -> str:
    """Return the id of a tick's task.

    Args:
        schedule: The schedule's name.
        tick: Milliseconds since the Unix epoch.
    """
    return uuid.uuid5(_TICKS, f"{schedule}@{tick}").hex


def moment(tick: int) -> datetime:
    """Return the time of a tick, in UTC."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=tick)


def said(tick: int) -> str:
    """Return a tick as people read it: ``2026-01-31T12:00:00+00:00``."""
    return moment(tick).isoformat(timespec="milliseconds" if tick % 1000 else "seconds")


def _seconds(interval: object) -> float | None:
    """Return an interval's seconds; None for other values."""
    if isinstance(interval, str):
        found = _INTERVAL.fullmatch(interval.replace(" ", ""))
        if found is None or not any(found.groups()):
            return None
        return sum(float(number or 0) * each for number, each in zip(found.groups(), _UNITS.values(), strict=True))
    return seconds_of(interval)
