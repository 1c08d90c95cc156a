"""The functions of several services together, as a server needs them: by queue and name. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from amqp_rpc.errors import ConfigurationError
from amqp_rpc.message.topology import clock_queue
from amqp_rpc.service.function import Function
from amqp_rpc.service.schedules import Schedule
from amqp_rpc.service.service import Service
from amqp_rpc.service.signature import EventSignature


def merge_tasks(services: Iterable[Service]) -> dict[str, dict[str, Function]]:
    """Return the tasks of several services by queue and name.

    Raises:
        ConfigurationError: Two tasks of one queue have the same name, or declare the queue differently.
    """
    queues: dict[str, dict[str, Function]] = {}
    for service in dict.fromkeys(services):
        for task in service.tasks:
            tasks = queues.setdefault(task.queue, {})
            for other in tasks.values():
                if other.name == task.name:
                    raise ConfigurationError(
                        f"{task.signature.where}: task {task.name!r} of queue {task.queue!r} is registered already, at "
                        f"{other.signature.where}; give one of them name="
                    )
                if (asked := _arguments(task)) != (there := _arguments(other)):
                    raise ConfigurationError(
                        f"{task.signature.where}: queue {task.queue!r} is to have {asked}, and {there} at "
                        f"{other.signature.where}; give both the same queue_type=, max_length= and max_priority="
                    )
            task.signature.compile()
            tasks[task.name] = task
    for queue, tasks in queues.items():
        if len([task for task in tasks.values() if task.default]) > 1:
            raise ConfigurationError(f"queue {queue!r} has two default tasks, and can have one")
    return queues


def merge_subscriptions(
    services: Iterable[Service], tasks: dict[str, dict[str, Function]]
) -> dict[str, dict[str, Function]]:
    """Return the functions of several services that handle events, by queue and name.

    Raises:
        ConfigurationError: Two of them share a queue, or one shares it with tasks; or its parameters don't fit.
    """
    queues: dict[str, dict[str, Function]] = {}
    for service in dict.fromkeys(services):
        for function in service.subscriptions:
            other = {**tasks.get(function.queue, {}), **queues.get(function.queue, {})}
            if other:
                raise ConfigurationError(
                    f"{function.signature.where}: queue {function.queue!r} is registered already, at "
                    f"{next(iter(other.values())).signature.where}; give one of them queue="
                )
            assert isinstance(function.signature, EventSignature)
            function.signature.roles()
            queues[function.queue] = {function.name: function}
    return queues


def merge_schedules(services: Iterable[Service]) -> dict[str, list[Schedule]]:
    """Return the schedules of several services by the queue of their scheduler.

    Raises:
        ConfigurationError: Two of them have the same name.
    """
    queues: dict[str, dict[str, Schedule]] = {}
    for service in dict.fromkeys(services):
        for schedule in service.schedules:
            schedules = queues.setdefault(clock_queue(service.name), {})
            if schedule.name in schedules:
                raise ConfigurationError(
                    f"there are two schedules {schedule.name!r}, of queues {schedules[schedule.name].queue!r} and "
                    f"{schedule.queue!r}; give one of them name="
                )
            schedules[schedule.name] = schedule
    return {queue: list(schedules.values()) for queue, schedules in queues.items()}


def queue_arguments(tasks: dict[str, Function]) -> dict[str, Any]:
    """Return the arguments of the queue that some tasks share."""
    return _arguments(next(iter(tasks.values())))


def _arguments(task: Function) -> dict[str, Any]:
    assert task.task is not None
    return task.task.queue_arguments


def merge(services: Iterable[Service]) -> dict[str, dict[str, Function]]:
    """Return the functions of several services that clients call, by queue and name.

    Raises:
        ConfigurationError: Two functions of one queue have the same name, or a service has none.
    """
    queues: dict[str, dict[str, Function]] = {}
    for service in dict.fromkeys(services):
        if (service.tasks or service.subscriptions) and not service.functions:
            continue
        functions = queues.setdefault(service.queue, {})
        for name, function in service.functions.items():
            if name in functions:
                raise ConfigurationError(
                    f"{function.signature.where}: {name!r} is registered already in another service with queue "
                    f"{service.queue!r}, at {functions[name].signature.where}; name one of the services"
                )
            function.signature.compile()
            functions[name] = function
    for queue, functions in queues.items():
        if not functions:
            raise ConfigurationError(f"the service of {queue!r} has no functions; register them with @service.rpc")
        if len([function for function in functions.values() if function.default]) > 1:
            raise ConfigurationError(f"queue {queue!r} has two default functions, and can have one")
    return queues


def chosen(queues: str | Iterable[str] | None, *found: dict[str, dict[str, Function]]) -> None:
    """Remove the queues that a server does not consume.

    Args:
        queues: The others, as names or as one text with commas between them; None for all.
        found: The functions by queue and name.

    Raises:
        ConfigurationError: There is no such queue.
    """
    if queues is None:
        return
    asked = [name.strip() for name in queues.split(",")] if isinstance(queues, str) else list(queues)
    there = [queue for functions in found for queue in functions]
    unknown = [name for name in asked if name not in there]
    if unknown or not asked:
        what = f"no service here has a queue {', '.join(map(repr, unknown))}" if unknown else "queues= names none"
        raise ConfigurationError(f"{what}; there are {', '.join(map(repr, there))}")
    for functions in found:
        for queue in [queue for queue in functions if queue not in asked]:
            del functions[queue]


def default_function(functions: dict[str, Function]) -> Function | None:
    """Return the function for plain text bodies without a name: the only one, or the one that is marked default."""
    if len(functions) == 1:
        return next(iter(functions.values()))
    return next((function for function in functions.values() if function.default), None)
