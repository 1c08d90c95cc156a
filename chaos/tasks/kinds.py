"""The kinds of tasks and events: their behaviour, their share, and their required outcome. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass

from chaos.tasks import served
from chaos.tasks.served import SUBSCRIPTIONS

#: The columns of the table: tasks by the type of their queue, and events.
PARTS = ("quorum", "classic", "bounded", "events")
QUORUM, CLASSIC, BOUNDED, OF_EVENTS = PARTS


@dataclass(frozen=True)
class Kind:
    """A kind of task, or of an event for one subscription.

    Args:
        name: Its name in the table.
        function: Its function in `served`.
        weight: Its share per thousand; 0 if `plan` has another rule.
        dead: A part of the reason with which it must become a dead letter; None if it must finish.
        delay: The range of its delay in seconds.
        fails: The range of failures before it succeeds.
        after: The range of seconds in its ``Retry(after=…)``; 0 leaves the delay to the back-off.
    """

    name: str
    function: str
    weight: int = 0
    dead: str | None = None
    delay: tuple[float, float] = (0.0, 0.0)
    fails: tuple[int, int] = (0, 0)
    after: tuple[float, float] = (0.0, 0.0)

    @property
    def part(self) -> str:
        """Its column, one of `PARTS`."""
        if self.function in SUBSCRIPTIONS:
            return OF_EVENTS
        return next((part for part in (CLASSIC, BOUNDED) if self.function.endswith(f"_{part}")), QUORUM)


#: The longest delay, which determines the number of delay queues in use.
LONGEST = 20.0
_DIED = " workers died, one after another"
KINDS = {
    kind.name: kind
    for kind in (
        Kind("plain", "work", 500),
        Kind("async", "work_async", 100),
        Kind("delayed", "work", 120, delay=(0.2, LONGEST)),
        Kind("fails, then succeeds", "work", 60, fails=(1, 2)),
        Kind("async, fails, then succeeds", "work_async", 20, fails=(1, 2)),
        Kind("Retry(after=…), then succeeds", "work", 40, fails=(1, 2), after=(0.2, 4.0)),
        Kind("delayed, fails, then succeeds", "work", 20, delay=(0.2, 5.0), fails=(1, 2)),
        Kind("fails always", "fail", 20, dead="ValueError: "),
        Kind("rejects", "reject", 20, dead="rejected: no such thing"),
        Kind("kills its workers", "die", dead=_DIED),
        Kind("kills its first worker", "die", fails=(1, 1)),
        Kind("classic: plain", "work_classic", 70),
        Kind("classic: delayed", "work_classic", 10, delay=(0.2, 5.0)),
        Kind("classic: fails, then succeeds", "work_classic", 15, fails=(1, 2)),
        Kind("classic: fails always", "fail_classic", 5, dead="ValueError: "),
        Kind("bounded: plain", "work_bounded"),
        Kind("bounded: delayed", "work_bounded", delay=(1.0, 1.0)),
        Kind("bounded: Retry(after=…), then succeeds", "work_bounded", fails=(1, 2), after=(1.0, 1.0)),
        Kind("event: everything", "everything"),
        Kind("event: fails, then succeeds", "retried"),
        Kind("event: rejected", "rejected", dead="rejected: no such thing"),
        Kind("event: not of its type", "mistyped", dead="'event'"),
    )
}
_OF_BURST = ("bounded: plain", "bounded: delayed", "bounded: Retry(after=…), then succeeds", "bounded: delayed")
_EVENT_KINDS = {kind.function: kind for kind in KINDS.values() if kind.part == OF_EVENTS}
#: Kinds at fixed places, because each costs several workers: (n, m) is the n-th of every m tasks of a producer.
EVERY = {"kills its workers": (500, 2000), "kills its first worker": (300, 700)}
#: Tasks of the bounded queue come in bursts that fill it: the size of a burst, and its place in every so many tasks of
#: a producer, not soon after one that kills its worker. Each runs long enough that the next ones find the workers busy,
#: and short enough that workers rarely die during it.
BURST, BURST_FROM, BURST_PERIOD = 40, 700, 1400
BURST_SECONDS = (0.2, 0.5)

#: Events for each task.
EVENTS = 0.1
#: Events per hundred that match a subscription besides the one to everything.
_BESIDE = {"": 30, "retried": 50, "rejected": 10, "mistyped": 10}

#: Durations of executions in seconds, mostly short.
DURATIONS = ((0.0, 0.02), (0.05, 0.1), (0.2, 1.0))
DURATION_WEIGHTS = (90, 9, 1)
#: Timeouts of `enqueue` in seconds, mostly longer than any fault.
TIMEOUTS = (60.0, 5.0, 2.0)
TIMEOUT_WEIGHTS = (70, 15, 15)


@dataclass(frozen=True)
class Plan:
    """One task, before it is enqueued."""

    kind: Kind
    delay: float
    seconds: float
    fails: int
    after: float
    timeout: float


def plan(number: int, chance: random.Random) -> Plan:
    """Return a producer's next task.

    Args:
        number: The number of tasks that it has enqueued.
        chance: The same seed gives the same tasks.
    """
    (name,) = chance.choices([*KINDS], [kind.weight for kind in KINDS.values()])
    for rare, (place, period) in EVERY.items():
        if number % period == place:
            name = rare
    if (place := number - _burst(number)) < BURST:
        name = _OF_BURST[place % len(_OF_BURST)]
    kind = KINDS[name]
    (span,) = chance.choices(DURATIONS, DURATION_WEIGHTS) if kind.part != BOUNDED else (BURST_SECONDS,)
    return Plan(
        kind,
        delay=round(chance.uniform(*kind.delay), 3),
        seconds=round(chance.uniform(*span), 4),
        fails=chance.randint(*kind.fails),
        after=round(chance.uniform(*kind.after), 3),
        timeout=chance.choices(TIMEOUTS, TIMEOUT_WEIGHTS)[0],
    )


def due(number: int) -> int:
    """Return the number of the task together with which a task is enqueued: the first of its burst, or itself."""
    first = _burst(number)
    return first if number - first < BURST else number


def _burst(number: int) -> int:
    """Return the number of the first task of the latest burst."""
    return number - (number - BURST_FROM) % BURST_PERIOD


@dataclass(frozen=True)
class EventPlan:
    """One event, before it is published, with its topic and its subscriptions."""

    kinds: tuple[Kind, ...]
    topic: str
    seconds: float
    fails: int
    after: float
    timeout: float


def plan_event(chance: random.Random) -> EventPlan:
    """Return a producer's next event; the same seed gives the same ones."""
    (beside,) = chance.choices([*_BESIDE], [*_BESIDE.values()])
    (span,) = chance.choices(DURATIONS[:2], DURATION_WEIGHTS[:2])
    functions = ["everything", *([beside] if beside else [])]
    return EventPlan(
        tuple(_EVENT_KINDS[function] for function in functions),
        topic=f"chaos.{chance.choice(['eu', 'us'])}.{beside or 'plain'}",
        seconds=round(chance.uniform(*span), 4),
        fails=chance.randint(1, 2),
        # Half of them leave the delay to the back-off.
        after=chance.choice([0.0, round(chance.uniform(0.2, 4.0), 3)]),
        timeout=chance.choices(TIMEOUTS, TIMEOUT_WEIGHTS)[0],
    )


def least_backoff(attempt: int) -> float:
    """Return the shortest back-off after a failed attempt: its jitter is a fifth."""
    first, most = served.BACKOFF
    return min(most, float(first * 2 ** (attempt - 1))) * 0.8
