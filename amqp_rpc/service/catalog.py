"""The functions of several services together, as a server needs them: by queue and name. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from amqp_rpc.errors import ConfigurationError
from amqp_rpc.message.topology import clock_queue
from amqp_rpc.service.function import Function
from amqp_rpc.service.schedules import Schedule
from amqp_rpc.service.service import Service


class Catalog:
    """The functions of several services, in the queues that a server consumes.

    Args:
        services: One or more.
        queues: The queues to consume, as names or as one text with commas between them; None for all.

    Raises:
        ConfigurationError: Two functions of one queue have the same name or declare it differently, a service has no
            functions, a type hint fails, two schedules have the same name, or there is no such queue.
    """

    def __init__(self, services: Iterable[Service], queues: str | Iterable[str] | None = None) -> None:
        services = list(dict.fromkeys(services))
        #: The functions that clients call, the tasks, and the functions for events; each by queue and name.
        self.functions: dict[str, dict[str, Function]] = {}
        self.tasks: dict[str, dict[str, Function]] = {}
        self.events: dict[str, dict[str, Function]] = {}
        #: By the queue of their scheduler.
        self.schedules: dict[str, list[Schedule]] = {}
        for service in services:
            if service.functions or not (service.tasks or service.subscriptions):
                self._add_functions(service)
            for task in service.tasks:
                self._add_task(task)
            self._add_schedules(service)
        for service in services:
            for function in service.subscriptions:
                self._add_subscription(function)
        self._check_defaults()
        if queues is not None:
            self._choose([name.strip() for name in queues.split(",")] if isinstance(queues, str) else list(queues))

    def _add_functions(self, service: Service) -> None:
        functions = self.functions.setdefault(service.queue, {})
        for name, function in service.functions.items():
            if name in functions:
                raise ConfigurationError(
                    f"{function.signature.where}: {name!r} is registered already in another service with queue "
                    f"{service.queue!r}, at {functions[name].signature.where}; name one of the services"
                )
            for other in functions.values():
                if other.queue_arguments != function.queue_arguments:
                    raise ConfigurationError(
                        f"{function.signature.where}: two services declare queue {service.queue!r} in two ways; give "
                        f"both the same queue_type=, max_length= and declare=, as at {other.signature.where}"
                    )
            function.signature.verify()
            functions[name] = function

    def _add_task(self, task: Function) -> None:
        tasks = self.tasks.setdefault(task.queue, {})
        for other in tasks.values():
            if other.name == task.name:
                raise ConfigurationError(
                    f"{task.signature.where}: task {task.name!r} of queue {task.queue!r} is registered already, at "
                    f"{other.signature.where}; give one of them name="
                )
            if task.queue_arguments != other.queue_arguments:
                raise ConfigurationError(
                    f"{task.signature.where}: queue {task.queue!r} is to have {_shown(task)}, and {_shown(other)} at "
                    f"{other.signature.where}; give both the same queue_type=, max_length=, max_priority= and declare="
                )
        task.signature.verify()
        tasks[task.name] = task

    def _add_subscription(self, function: Function) -> None:
        for other in (*self.tasks.get(function.queue, {}).values(), *self.events.get(function.queue, {}).values()):
            raise ConfigurationError(
                f"{function.signature.where}: queue {function.queue!r} is registered already, at "
                f"{other.signature.where}; give one of them queue="
            )
        function.signature.verify()
        self.events[function.queue] = {function.name: function}

    def _add_schedules(self, service: Service) -> None:
        for schedule in service.schedules:
            schedules = self.schedules.setdefault(clock_queue(service.name), [])
            for other in schedules:
                if other.name == schedule.name:
                    raise ConfigurationError(
                        f"there are two schedules {schedule.name!r}, of queues {other.queue!r} and {schedule.queue!r}; "
                        "give one of them name="
                    )
            schedules.append(schedule)

    def _check_defaults(self) -> None:
        for queue, functions in self.functions.items():
            if not functions:
                raise ConfigurationError(f"the service of {queue!r} has no functions; register them with @service.rpc")
        for queue in self.functions.keys() & (self.tasks.keys() | self.events.keys()):
            raise ConfigurationError(
                f"queue {queue!r} is to hold calls, and tasks or events as well; give one of them another queue="
            )
        for kind, queues in (("functions", self.functions), ("tasks", self.tasks)):
            for queue, functions in queues.items():
                if len([function for function in functions.values() if function.default]) > 1:
                    raise ConfigurationError(f"queue {queue!r} has two default {kind}, and can have one")

    def _choose(self, asked: list[str]) -> None:
        """Remove the queues that are not asked for."""
        every = [*self.functions, *self.tasks, *self.events]
        unknown = [name for name in asked if name not in every]
        if unknown or not asked:
            what = f"no service here has a queue {', '.join(map(repr, unknown))}" if unknown else "queues= names none"
            advice = ". A task may have several: @service.task(queue=['web', 'urgent'])" if unknown else ""
            raise ConfigurationError(f"{what}; there are {', '.join(map(repr, every))}{advice}")
        for functions in (self.functions, self.tasks, self.events):
            for queue in [queue for queue in functions if queue not in asked]:
                del functions[queue]


def queue_arguments(functions: dict[str, Function]) -> dict[str, Any] | None:
    """Return the arguments of the queue that some functions share; None if another program declares it."""
    return next(iter(functions.values())).queue_arguments


def dead_letter_arguments(tasks: dict[str, Function]) -> dict[str, Any]:
    """Return the arguments of the dead-letter queue of some tasks, which share a queue."""
    policy = next(iter(tasks.values())).task
    assert policy is not None
    return policy.dead_letter_arguments


def _shown(task: Function) -> str:
    return "another program's arguments" if task.queue_arguments is None else str(task.queue_arguments)


def default_function(functions: dict[str, Function]) -> Function | None:
    """Return the function for plain text bodies without a name: the only one, or the one that is marked default."""
    if len(functions) == 1:
        return next(iter(functions.values()))
    return next((function for function in functions.values() if function.default), None)
