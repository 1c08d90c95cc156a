"""A task's queue, retries and limits. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, get_args

from amqp_rpc.errors import ConfigurationError
from amqp_rpc.message import topology
from amqp_rpc.message.settings import count, positive
from amqp_rpc.message.timing import Seconds, backoff, seconds_of, whole
from amqp_rpc.message.topology import HIGHEST_PRIORITY, LONGEST_DELAY
from amqp_rpc.service.context import Authorize

#: RabbitMQ keeps a quorum queue on a majority of a cluster's nodes, and a classic one on one.
QueueType = Literal["quorum", "classic"]
#: A server declares its queue, or, if it is passive, uses one that another program has declared.
Declare = Literal["active", "passive"]

DEFAULT_RETRIES = 5
#: Seconds before the first retry, and the most between two.
DEFAULT_BACKOFF = (1.0, 600.0)


class SubscriptionOptions(TypedDict, total=False):
    """The options of `Service.subscribe`, which `Service.task` has as well: see there."""

    queue_type: QueueType
    declare: Declare
    retries: int
    backoff: tuple[Seconds, Seconds]
    retry_for: tuple[type[BaseException], ...]
    time_limit: Seconds | None
    max_length: int | None
    authorize: Authorize | None


class TaskOptions(SubscriptionOptions, total=False):
    """The other options of `Service.task`."""

    priority: int | None
    max_priority: int | None
    result: bool


def check_options(method: str, given: Mapping[str, object], known: type[SubscriptionOptions]) -> None:
    """Refuse an option that a method does not have, as Python refuses an unknown keyword."""
    for name in given:
        if name not in known.__annotations__:
            raise TypeError(f"Service.{method}() got an unexpected keyword argument {name!r}")


@dataclass(frozen=True, slots=True)
class CallQueue:
    """The queue of a service's calls; the options are those of `Service`.

    Raises:
        ConfigurationError: One of them makes no sense.
    """

    name: str
    queue_type: QueueType = "classic"
    declare: Declare = "active"
    max_length: int | None = None

    @property
    def arguments(self) -> dict[str, Any] | None:
        """The arguments of its declaration; None if another program declares it."""
        if self.declare == "passive":
            return None
        return topology.task_arguments(self.queue_type, max_length=self.max_length)

    def __post_init__(self) -> None:
        topology.check_name(topology.dead_letter_queue(topology.check_name(self.name)))
        if topology.is_taken(self.name):
            raise ConfigurationError(
                f"{self.name!r} can't name a queue of calls: it does not begin with 'amq.' or 'amqp_rpc.', and does "
                f"not end with {topology.dead_letter_queue('')!r}"
            )
        _check_queue(self.queue_type, self.declare)
        if self.max_length is not None:
            if self.declare == "passive":
                raise ConfigurationError(
                    "max_length= is for a queue that the server declares; with declare='passive' another program "
                    "declares it"
                )
            object.__setattr__(self, "max_length", count("max_length", self.max_length))


@dataclass(frozen=True, slots=True)
class Policy:
    """The queue of a function's tasks or events, and their retries; the options are those of `Service.task`.

    Raises:
        ConfigurationError: One of them is out of range.
    """

    queue: str
    queue_type: QueueType = "quorum"
    retries: int = DEFAULT_RETRIES
    backoff: tuple[float, float] = DEFAULT_BACKOFF
    retry_for: tuple[type[BaseException], ...] = (Exception,)
    time_limit: float | None = None
    priority: int | None = None
    max_length: int | None = None
    max_priority: int | None = None
    result: bool = True
    #: All queues of its tasks, where it has several.
    queues: tuple[str, ...] = ()
    declare: Declare = "active"

    @property
    def queue_arguments(self) -> dict[str, Any] | None:
        """The arguments of the queue's declaration; None if another program declares it."""
        if self.declare == "passive":
            return None
        return topology.task_arguments(self.queue_type, max_length=self.max_length, max_priority=self.max_priority)

    @property
    def dead_letter_arguments(self) -> dict[str, Any]:
        """The arguments of the declaration of its dead-letter queue."""
        return topology.dead_letter_arguments(topology.task_arguments(self.queue_type))

    def __post_init__(self) -> None:
        topology.check_task_queue(self.queue)
        _check_queue(self.queue_type, self.declare)
        if self.declare == "passive" and (self.max_length is not None or self.max_priority is not None):
            raise ConfigurationError(
                "max_length= and max_priority= are for a queue that the server declares; with declare='passive' "
                "another program declares it"
            )
        retries = whole(self.retries)
        if retries is None or retries < 0:
            raise ConfigurationError(f"retries is a whole number from 0, not {self.retries!r}")
        self._set(retries=retries, backoff=_delays(self.backoff))
        if not isinstance(self.retry_for, tuple):
            raise ConfigurationError(f"retry_for is a tuple of exceptions' classes, (OSError,), not {self.retry_for!r}")
        for kind in self.retry_for:
            if not (isinstance(kind, type) and issubclass(kind, BaseException)):
                raise ConfigurationError(f"retry_for has exceptions' classes, not {kind!r}")
        self._check_limits()

    def _check_limits(self) -> None:
        if self.time_limit is not None:
            self._set(time_limit=positive("time_limit", self.time_limit))
        self._set(priority=priority_of(self.priority))
        if self.max_length is not None:
            self._set(max_length=count("max_length", self.max_length))
        if self.max_priority is not None:
            self._set(max_priority=count("max_priority", self.max_priority, most=HIGHEST_PRIORITY))
            if self.queue_type != "classic":
                raise ConfigurationError(
                    "max_priority is for classic queues; a quorum queue has two levels by itself, 0 to 4 and 5 to 9 "
                    "(RabbitMQ 4.0 and newer), or all ten (4.3 and newer)"
                )

    def _set(self, **values: object) -> None:
        """Keep values as the plain numbers that they stand for: a `timedelta` as its seconds, say."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def delay(self, attempt: int) -> float:
        """Return the seconds until the next attempt, after that many have failed."""
        first, most = self.backoff
        return backoff(attempt, first=first, most=most)


def _delays(backoff: object) -> tuple[float, float]:
    """Return the first and the longest delay of a back-off, in seconds."""
    match backoff:
        case (first, most):
            shortest, longest = seconds_of(first), seconds_of(most)
            if shortest is None or longest is None or not 0 <= shortest <= LONGEST_DELAY >= longest >= 0:
                raise ConfigurationError(
                    f"the delays of backoff are numbers of seconds from 0 to {LONGEST_DELAY:g}, not {backoff!r}"
                )
            if shortest == 0 < longest:
                raise ConfigurationError(f"a first delay of 0 is never longer, and {most!r} says nothing: (0, 0)")
            if shortest > longest:
                raise ConfigurationError(f"backoff is (first, longest) in seconds, and {first!r} is longer")
            return shortest, longest
    raise ConfigurationError(f"backoff is (first, longest) in seconds, not {backoff!r}")


def priority_of(priority: int | None) -> int | None:
    """Return a priority; raise `ConfigurationError` unless it is a whole number from 0 to 9, or None."""
    if priority is None:
        return None
    number = whole(priority)
    if number is None or not 0 <= number <= HIGHEST_PRIORITY:
        raise ConfigurationError(f"a priority is a whole number from 0 to {HIGHEST_PRIORITY}, not {priority!r}")
    return number


def _check_queue(queue_type: object, declare: object) -> None:
    if queue_type not in get_args(QueueType):
        raise ConfigurationError(f"queue_type is 'quorum' or 'classic', not {queue_type!r}")
    if declare not in get_args(Declare):
        raise ConfigurationError(
            "declare is 'active' (the server declares its queue) or 'passive' (another program declares it, and the "
            f"server uses it as it is), not {declare!r}"
        )
