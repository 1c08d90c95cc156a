"""What whoever holds the clock knows: up to when the ticks of each schedule have been dealt with. Pure.

It is written into the token that is the clock, so that the next holder goes on from there.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass

from amqp_rpc.service.schedules import MOST_COUNTED, Cron, Schedule, said

logger = logging.getLogger(__name__)

#: Milliseconds by which servers' clocks may differ, or one be put back: a holder waits for so long until its clock is
#: where the last one's was. What is further ahead was written by a clock that was wrong.
MOST_AHEAD = 60_000
#: Milliseconds until a schedule that no holder knows any more is forgotten: far longer than two versions of a service
#: run side by side.
FORGET_AFTER = 30 * 86_400_000
#: The end of the year 9999, where calendars end.
_LAST_MOMENT = 253_402_300_800_000


@dataclass(frozen=True, slots=True)
class Due:
    """A tick that is due now.

    Args:
        schedule: Whose.
        tick: When it was due.
        missed: How many there were before it that are skipped for it.
        dealt: Up to when the schedule's ticks have been dealt with, once its task is enqueued.
    """

    schedule: Schedule
    tick: int
    missed: int
    dealt: int


class Timetable:
    """The schedules of a service, and how far each has come.

    Args:
        schedules: Which this server knows.
    """

    def __init__(self, schedules: Iterable[Schedule]) -> None:
        self._schedules = {schedule.name: schedule for schedule in schedules}
        #: Up to when the ticks of each have been dealt with: of those that other versions of the service know, too.
        self.dealt: dict[str, int] = {}
        self._next: dict[str, int] = {}
        self._under_way: set[str] = set()

    def merge(self, body: bytes) -> None:
        """Take note of what a token says; of two that differ, the later one has seen more.

        Args:
            body: The token's; one that can't be read says nothing.
        """
        try:
            dealt = json.loads(body)["dealt"]
            found = {str(name): int(moment) for name, moment in dealt.items()}
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            logger.warning("A token of the clock can't be read: %.200r", body)
            return
        for name, moment in found.items():
            if self.dealt.get(name, 0) < moment < _LAST_MOMENT:
                self._deal(name, moment)

    def body(self) -> bytes:
        """Return what the next token says."""
        return json.dumps({"dealt": self.dealt}).encode()

    def due(self, now: int) -> list[Due]:
        """Return what is to be enqueued now: of each schedule the latest tick that was not dealt with, if any.

        What is returned is under way until `done` or `failed` is called.

        Args:
            now: Milliseconds since the Unix epoch.
        """
        found = []
        for name, schedule in self._schedules.items():
            if name in self._under_way:
                continue
            dealt = self.dealt.get(name)
            if dealt is not None and dealt > now + MOST_AHEAD:
                logger.warning(
                    "%s: its ticks have been dealt with up to %s, which is still to come: a clock was wrong; it goes "
                    "on from now",
                    name, said(dealt),
                )  # fmt: skip
                dealt = None
            if dealt is None:
                # Seen for the first time: what was due before is none of its ticks.
                self._deal(name, now)
            elif now >= self._until(name):
                missed = schedule.times.missed(dealt, now)
                assert missed is not None
                tick, count = missed
                self._under_way.add(name)
                found.append(Due(schedule, tick, count - 1, now))
            elif now > dealt:
                # So that a schedule that is seldom due is not taken for one that nobody knows any more.
                self.dealt[name] = now
        for name in [name for name, dealt in self.dealt.items() if dealt < now - FORGET_AFTER]:
            if name not in self._schedules:
                del self.dealt[name]
        return found

    def done(self, due: Due) -> None:
        """Take note that the task of a tick is in its queue."""
        schedule = due.schedule
        self._under_way.discard(schedule.name)
        self._deal(schedule.name, max(due.dealt, self.dealt.get(schedule.name, 0)))
        if due.missed:
            some = "at least " if isinstance(schedule.times, Cron) and due.missed + 1 >= MOST_COUNTED else ""
            logger.warning(
                "%s: %s%d missed ticks are skipped; the latest, of %s, is enqueued",
                schedule.name, some, due.missed, said(due.tick),
            )  # fmt: skip

    def failed(self, due: Due) -> None:
        """Take note that it is not: it is due again, or a later tick is."""
        self._under_way.discard(due.schedule.name)

    def forget(self) -> None:
        """Forget what is under way: nobody will say what became of it."""
        self._under_way.clear()

    @property
    def busy(self) -> bool:
        """Whether something is under way."""
        return bool(self._under_way)

    def wait(self, now: int) -> float:
        """Return the seconds until something may be due; a day where nothing is.

        Args:
            now: Milliseconds since the Unix epoch.
        """
        waiting = [self._until(name) - now for name in self._schedules if name not in self._under_way]
        return max(0.0, min(waiting, default=86_400_000) / 1000)

    def _deal(self, name: str, moment: int) -> None:
        self.dealt[name] = moment
        self._next.pop(name, None)

    def _until(self, name: str) -> int:
        """Return a known schedule's next tick."""
        if name not in self._next:
            self._next[name] = self._schedules[name].times.after(self.dealt[name])
        return self._next[name]
