"""When a task is due by itself: every five minutes, or by a cron expression. Pure: no clock is read here.

Times are whole milliseconds since the Unix epoch. Whoever computes a schedule's ticks finds the same ones: servers
agree on them without a word.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Protocol
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from amqp_rpc.errors import CodecError, ConfigurationError, InvalidArguments
from amqp_rpc.message import codec
from amqp_rpc.message.envelope import Message, Properties, task_properties
from amqp_rpc.message.headers import SCHEDULE, TICK
from amqp_rpc.message.settings import DEFAULT_MAX_MESSAGE_SIZE
from amqp_rpc.service.signature import Signature

#: Seconds between two ticks, at least and at most.
SHORTEST_INTERVAL, LONGEST_INTERVAL = 0.1, 366 * 86_400.0
#: Part of a millisecond by which a number of seconds may be off, as binary fractions are.
_TOLERANCE = 1e-6
#: Ticks of a cron expression that are counted when they were missed: each one is computed.
MOST_COUNTED = 1000

_UNITS = {"d": 86_400, "h": 3600, "m": 60, "s": 1}
_NUMBER = r"\d+(?:\.\d+)?"
_INTERVAL = re.compile("".join(rf"(?:({_NUMBER}){unit})?" for unit in _UNITS))
_FIELDS = "minute hour day-of-month month day-of-week"
_RIGHT = '"*/5 * * * *" is every five minutes, "30 2 * * MON-FRI" 02:30 on working days'
#: In which the ids of ticks are unique: https://www.rfc-editor.org/rfc/rfc9562#name-uuid-version-5
_TICKS = uuid.uuid5(uuid.NAMESPACE_OID, "amqp_rpc.tick")


class Times(Protocol):
    """The ticks of a schedule."""

    def after(self, moment: int) -> int:
        """Return the first tick later than a moment."""

    def missed(self, moment: int, now: int) -> tuple[int, int] | None:
        """Return the latest tick later than a moment and not later than now, and how many there are; None for none."""


@dataclass(frozen=True, slots=True)
class Every:
    """Ticks at the whole multiples of an interval since the Unix epoch: ``1h`` is at every full hour in UTC.

    Args:
        interval: Milliseconds.
    """

    interval: int

    @classmethod
    def parse(cls, interval: str | float) -> Every:
        """Return what an interval means.

        Args:
            interval: Seconds, or text such as ``"30s"``, ``"5m"``, ``"1h30m"``, ``"1d"``.

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
        """Return the first tick later than a moment."""
        return (moment // self.interval + 1) * self.interval

    def missed(self, moment: int, now: int) -> tuple[int, int] | None:
        """Return the latest tick later than a moment and not later than now, and how many there are; None for none."""
        count = now // self.interval - moment // self.interval
        return (now // self.interval * self.interval, count) if count > 0 else None

    def __str__(self) -> str:
        return f"every {self.interval / 1000:.10g} s"


@dataclass(frozen=True, slots=True)
class Cron:
    """Ticks by a cron expression, on the clocks of a time zone.

    Where they are put forward, what falls into the hour that is left out is due right after it; where they are put
    back, it is due once. An expression whose minutes or hours begin with ``*`` follows the time that really passes.
    This is Debian's cron: https://manpages.debian.org/bookworm/cron/cron.8.en.html

    Args:
        expression: Five fields (minute, hour, day of the month, month, day of the week), or six with seconds first.
        zone: Whose clocks.
    """

    expression: str
    zone: ZoneInfo = field(default_factory=lambda: ZoneInfo("UTC"))

    @classmethod
    def parse(cls, expression: str, timezone: str = "UTC") -> Cron:
        """Return what an expression means.

        Args:
            expression: As ``"*/5 * * * *"``.
            timezone: A name of the IANA data base, as ``"Europe/Berlin"``.

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
        made = cls(" ".join(expression.upper().split()), zone)
        try:
            made.after(0)
        except CronSimError as error:
            said = str(error).lower()
            if "fields" in said:
                said = f"it has {len(expression.split())} fields, and not the five {_FIELDS} (or six, seconds first)"
            raise ConfigurationError(f"{expression!r} is no cron expression: {said}. {_RIGHT}") from error
        except StopIteration as error:
            raise ConfigurationError(f"{expression!r} never comes true: no such day is in the calendar") from error
        return made

    def after(self, moment: int) -> int:
        """Return the first tick later than a moment."""
        return next(self._ticks(moment))

    def missed(self, moment: int, now: int) -> tuple[int, int] | None:
        """Return the latest tick later than a moment and not later than now, and how many there are; None for none.

        More than `MOST_COUNTED` are not counted.
        """
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
        """Return the latest tick until now; there is one."""
        # What is searched backwards from the hour that clocks show twice may be a day early: go on from there.
        latest = next(tick for tick in self._search(now + 1000, reverse=True) if tick <= now)
        for tick in self._ticks(latest):
            if tick > now:
                break
            latest = tick
        return latest

    def _ticks(self, moment: int) -> Iterator[int]:
        """Yield the ticks later than a moment, each later than the one before."""
        for tick in self._search(moment):
            # The library may repeat itself, or go back, where clocks are put forward or back.
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
    """A task and when it is due.

    Args:
        name: Its identity, for all servers and versions of a service: ``billing.charge: every 300 s``.
        queue: The task's.
        function: The task's name.
        times: Its ticks.
        body: The task's arguments, ready to be sent.
        priority: The task's, from 0 to 9; None for none.
    """

    name: str
    queue: str
    function: str
    times: Times
    body: bytes = field(repr=False)
    priority: int | None = None

    @classmethod
    def of(
        cls,
        signature: Signature,
        queue: str,
        name: str,
        times: Times,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        priority: int | None = None,
    ) -> Schedule:
        """Return the schedule of a task that will be called with some arguments.

        Args:
            signature: The task's.
            queue: The task's.
            name: What the schedule's name begins with.
            times: Its ticks.
            args: Positional arguments.
            kwargs: Named arguments.
            priority: The task's, from 0 to 9; None for none.

        Raises:
            ConfigurationError: The task can't be called with them, or they can't be sent.
        """
        try:
            signature.accept(args, kwargs)
            body = codec.encode([list(args), dict(kwargs)], codec.MSGPACK, limit=DEFAULT_MAX_MESSAGE_SIZE)
        except (InvalidArguments, CodecError, TypeError) as error:
            raise ConfigurationError(f"it can't be enqueued with args={args!r}, kwargs={kwargs!r}: {error}") from error
        return cls(f"{name}: {times}", queue, signature.name, times, body, priority)

    def message(self, tick: int, *, now: float) -> Message:
        """Return the task of a tick: whoever makes it, its id is the same.

        Args:
            tick: Which.
            now: Unix time in seconds.
        """
        properties: Properties = task_properties(
            function=self.function,
            identity=tick_id(self.name, tick),
            expires=None,
            now=now,
            priority=self.priority,
        )
        properties.headers = {**(properties.headers or {}), SCHEDULE: self.name, TICK: tick}
        return Message(self.queue, properties, self.body)


def tick_id(schedule: str, tick: int) -> str:
    """Return the id of a tick's task.

    Args:
        schedule: The schedule's name.
        tick: Milliseconds since the Unix epoch.
    """
    return uuid.uuid5(_TICKS, f"{schedule}@{tick}").hex


def said(tick: int) -> str:
    """Return a tick as people read it: ``2026-01-31T12:00:00+00:00``."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=tick)
    return moment.isoformat(timespec="milliseconds" if tick % 1000 else "seconds")


def _seconds(interval: object) -> float | None:
    """Return an interval's seconds; None where it is none."""
    if isinstance(interval, str):
        found = _INTERVAL.fullmatch(interval.replace(" ", ""))
        if found is None or not any(found.groups()):
            return None
        return sum(float(number or 0) * each for number, each in zip(found.groups(), _UNITS.values(), strict=True))
    if isinstance(interval, bool) or not isinstance(interval, int | float):
        return None
    return float(interval)
