"""What a service says of a task: its queue, and how often and when it is tried again. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal, get_args

from amqp_rpc.delays import LONGEST_DELAY, LONGEST_DELAYED_NAME
from amqp_rpc.errors import ConfigurationError
from amqp_rpc.settings import positive
from amqp_rpc.topology import CALL_QUEUE, dead_letter_queue

#: How a queue is kept: on a majority of a cluster's nodes, or on one.
QueueType = Literal["quorum", "classic"]

DEFAULT_RETRIES = 5
#: Seconds before the first retry, and the most between two.
DEFAULT_BACKOFF = (1.0, 600.0)
#: By how much a delay is changed by chance, so that what failed together is not tried together.
_JITTER = 0.2


@dataclass(frozen=True, slots=True)
class Policy:
    """What becomes of the tasks of a function.

    Args:
        queue: Which holds them.
        queue_type: How it is kept: ``"quorum"``, or ``"classic"`` on one node.
        retries: How often a task that fails is tried again.
        backoff: Seconds before the first retry, doubled each time, and the most that they become.
        retry_for: The exceptions that are worth another try; after others it is a dead letter at once.

    Raises:
        ConfigurationError: One of them is out of range.
    """

    queue: str
    queue_type: QueueType = "quorum"
    retries: int = DEFAULT_RETRIES
    backoff: tuple[float, float] = DEFAULT_BACKOFF
    retry_for: tuple[type[BaseException], ...] = (Exception,)

    def __post_init__(self) -> None:
        _check_name(self.queue)
        if self.queue_type not in get_args(QueueType):
            raise ConfigurationError(f"queue_type is 'quorum' or 'classic', not {self.queue_type!r}")
        if isinstance(self.retries, bool) or not isinstance(self.retries, int) or self.retries < 0:
            raise ConfigurationError(f"retries is a whole number from 0, not {self.retries!r}")
        match self.backoff:
            case (first, most):
                positive("the first delay of backoff", first, most=LONGEST_DELAY)
                positive("the longest delay of backoff", most, most=LONGEST_DELAY)
                if first > most:
                    raise ConfigurationError(f"backoff is (first, longest) in seconds, and {first!r} is longer")
            case _:
                raise ConfigurationError(f"backoff is (first, longest) in seconds, not {self.backoff!r}")
        for kind in self.retry_for:
            if not (isinstance(kind, type) and issubclass(kind, BaseException)):
                raise ConfigurationError(f"retry_for has exceptions' classes, not {kind!r}")

    def delay(self, attempt: int, *, chance: float | None = None) -> float:
        """Return the seconds until the next try: exponential, more or less a fifth.

        Args:
            attempt: Which try has failed, from 1.
            chance: From 0 to 1, what makes the jitter; random unless given.
        """
        first, most = self.backoff
        chance = random.random() if chance is None else chance  # noqa: S311 - no secret
        # Past 60 doublings any first delay is past any longest one.
        return float(min(most, first * 2.0 ** min(attempt - 1, 60)) * (1 - _JITTER + 2 * _JITTER * chance))


def _check_name(queue: str) -> None:
    calls = queue == CALL_QUEUE or queue.startswith(f"{CALL_QUEUE}.")
    dead = dead_letter_queue("") == queue[-len(dead_letter_queue("")) :]
    if not queue or calls or dead or queue.startswith("amq.") or len(queue.encode()) > LONGEST_DELAYED_NAME:
        raise ConfigurationError(
            f"{queue!r} can't name a task queue: the name is not empty, has at most {LONGEST_DELAYED_NAME} bytes, "
            f"does not begin with {CALL_QUEUE!r}, which holds calls, or 'amq.', and does not end with "
            f"{dead_letter_queue('')!r}"
        )
