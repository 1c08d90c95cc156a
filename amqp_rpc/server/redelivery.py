"""Tasks that come again, or go back: how many workers died with one, and when its copy comes. Pure."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

from amqp_rpc.message.envelope import Message, Properties, Request, republished
from amqp_rpc.message.headers import CRASHES, delivery_count
from amqp_rpc.message.timing import backoff
from amqp_rpc.message.topology import units

#: Workers that may die with one task, before it is a dead letter. One that ends workers costs as many, and one that was
#: only beside such tasks has to be so as often: five were too few for 100 000 tasks and a worker that dies each second.
MOST_CRASHES = 8
#: Workers that died with a task from which on it is suspected to be what ends them.
SUSPECTED = 2
#: From RabbitMQ 4.0 on such a queue drops what it got back 20 times: so often it has come when that is near.
_ABOUT_TO_BE_DROPPED = 15
#: Units of delay of a copy at least: the broker has the acknowledgement long before.
_SOON = 5


class Suspects:
    """Lets one task at a time run in a worker of those that are suspected to be what ends workers.

    Most of them were only beside the one that is: two of them side by side would be counted together again, and in the
    end be dead letters together.
    """

    def __init__(self) -> None:
        self._place = Lock()

    def enter(self) -> Callable[[], None] | None:
        """Return what is to be called when the task has ended, once or more often; None where another one runs."""
        if not self._place.acquire(blocking=False):
            return None
        held = [self._place]

        def leave() -> None:
            try:
                held.pop().release()
            except IndexError:
                return  # its time limit came first

        return leave


def given_back(queue: str, properties: Properties, body: bytes, *, delay: int = 0) -> Message:
    """Return a task as it goes back to its queue by a worker that has not begun it: nothing of it is changed.

    The workers that it ended before stay counted, though the broker counts the copy anew.

    Args:
        queue: Its name.
        properties: The delivery's.
        body: The delivery's.
        delay: Units of delay until it is there again.
    """
    counted = {}
    if delivery_count(properties.headers):
        counted[CRASHES] = deaths(Request.read(properties, body, redelivered=True).crashes, properties)
    return Message(queue, republished(properties, counted), body, delay)


def deaths(before: int, properties: Properties) -> int:
    """Return how many workers died with a task that has come again.

    A quorum queue counts each time that it got the task back, and a broker that stops gives it to one worker after
    another as it ends their connections. Nobody has begun it as often: from `SUSPECTED` on a worker begins none that
    has come again, but puts back a copy. So no more than one is counted then, and up to `SUSPECTED` before.

    Args:
        before: As many as its header says.
        properties: The delivery's.
    """
    counted = delivery_count(properties.headers)
    return before + (1 if counted is None else min(counted, max(1, SUSPECTED - before)))


def about_to_be_dropped(properties: Properties) -> bool:
    """Return whether the broker may drop a message when it gets it back a few times more."""
    return (delivery_count(properties.headers) or 0) >= _ABOUT_TO_BE_DROPPED


def apart(crashes: int) -> int:
    """Return the units of delay after that many workers died with a task: at random, 0.5 to 1, 2.5, then 8.5 seconds.

    Else the tasks that were only beside one that kills workers would come back with it, and be counted with it, again.
    """
    # Two doublings a crash, and a jitter of the whole wait: up to 0.5, 2 and 8 seconds.
    return _SOON + units(backoff(2 * crashes - 1, first=0.25, most=4.0, jitter=1.0))
