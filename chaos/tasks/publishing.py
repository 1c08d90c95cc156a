"""The events of a producer, published one at a time and many together, in turns.

Each event has one record for each subscription that it matches.
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

#: Events that are published together, after as many single ones.
MANY = 10
#: The offset of the keys of a producer's events from those of its tasks.
_AFTER_TASKS = 5_000_000


class Publishing:
    """Publishes a number of events, spread over some seconds.

    Args:
        client: The client that publishes them.
        ledger: The file of their records.
        first: The producer's first key.
        events: The number of events.
        seconds: The seconds over which they are spread.
        chance: The same seed gives the same events.
        stopping: Set to stop publishing.
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
        """Publish until all is sent or ``stopping`` is set."""
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
