"""The events that a producer publishes: one at a time, and many together, in turns.

What is recorded is what is promised: one record for each subscription that an event matches.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import asdict

from amqp_rpc import Client, NotAllAccepted
from chaos.tasks.kinds import EventPlan, plan_event
from chaos.tasks.ledger import Ledger
from chaos.tasks.outcomes import outcome
from chaos.tasks.served import SUBSCRIPTIONS, Happened, event_key

#: Events that are published together, and as many one after another before them.
MANY = 10
#: Where the keys of a producer's events begin, among its tasks'.
_AFTER_TASKS = 5_000_000


class Publishing:
    """Publishes so many events, spread over so many seconds.

    Args:
        client: Publishes them.
        ledger: Where they are recorded.
        first: The first key of all that this producer sends.
        events: How many.
        seconds: Over which they are spread.
        chance: The same gives the same events.
        stopping: Set when no more are to be published.
    """

    def __init__(
        self,
        client: Client,
        ledger: Ledger,
        *,
        first: int,
        events: int,
        seconds: float,
        chance: random.Random,
        stopping: threading.Event,
    ) -> None:
        self._client = client
        self._ledger = ledger
        self._first = first + _AFTER_TASKS
        self._events = events
        self._pause = seconds / max(1, events)
        self._chance = chance
        self._stopping = stopping

    def run(self) -> None:
        """Publish all, or as many as there is time for."""
        began = time.monotonic()
        for number in range(0, self._events, 2 * MANY):
            if self._stopping.wait(max(0, began + number * self._pause - time.monotonic())):
                return
            keys = [self._first + each * len(SUBSCRIPTIONS) for each in range(number, number + 2 * MANY)]
            plans = [(key, plan_event(self._chance)) for key in keys]
            for key, plan in plans[:MANY]:
                self._recorded([(key, plan)], lambda key=key, plan=plan: [self._one(key, plan)])  # type: ignore[misc] # bound now
            together = plans[MANY:]
            self._recorded(together, lambda together=together: self._many(together))  # type: ignore[misc] # bound now

    def _one(self, key: int, plan: EventPlan) -> str:
        return self._client.publish(plan.topic, _payload(key, plan), timeout=plan.timeout)

    def _many(self, plans: list[tuple[int, EventPlan]]) -> list[str]:
        events = ((plan.topic, _payload(key, plan)) for key, plan in plans)
        return self._client.publish_many(events, timeout=plans[0][1].timeout)

    def _recorded(self, plans: list[tuple[int, EventPlan]], publish: Callable[[], list[str]]) -> None:
        for key, plan in plans:
            for kind in plan.kinds:
                self._ledger.add(
                    "tasks", key=event_key(key, kind.function), kind=kind.name, delay=0.0,
                    fails=plan.fails, after=plan.after, timeout=plan.timeout, began=time.monotonic(),
                )  # fmt: skip
        identities: list[str | None] = [None] * len(plans)
        errors: dict[int, Exception] = {}
        try:
            identities[:] = publish()
        except NotAllAccepted as error:
            errors.update(error.errors)
        except Exception as error:
            errors.update(dict.fromkeys(range(len(plans)), error))
        now = time.monotonic()
        for number, (key, plan) in enumerate(plans):
            ended, said = outcome(errors.get(number))
            for kind in plan.kinds:
                self._ledger.complete(
                    "tasks", event_key(key, kind.function), ended=now, outcome=ended,
                    id=identities[number], said=said[:300],
                )  # fmt: skip


def _payload(key: int, plan: EventPlan) -> dict[str, object]:
    return asdict(Happened(key, plan.seconds, plan.fails, plan.after))
