"""The checks of a run's history: figures that must be zero, and figures that are only shown. Pure."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator

from chaos.tasks.history import Run, Task, TaskHistory
from chaos.tasks.kinds import PARTS, least_backoff
from chaos.tasks.outcomes import ACCEPTED, REFUSED, UNKNOWN

#: Seconds before an execution's recorded end in which the cause of its missing ack may lie (the record is written
#: before the function returns), and seconds after a fault in which a heartbeat may detect a broken connection.
BEFORE, NOTICED = 0.5, 8.0
#: Seconds between the record that a task will kill its worker and the end of an execution that was not acked by then.
ABOUT = 3.0

Check = Callable[[TaskHistory], list[Task]]


def lost(history: TaskHistory) -> list[Task]:
    """Return the accepted tasks that neither finished nor are dead letters."""
    return [task for task in history.missing() if not task.dead]


def without_cause(history: TaskHistory) -> list[Task]:
    """Return the tasks that are dead letters for another reason than that of their kind."""
    return [
        task
        for task in history.tasks.values()
        if any(task.kind.dead is None or task.kind.dead not in letter.reason for letter in task.dead)
    ]


def ended_wrongly(history: TaskHistory) -> list[Task]:
    """Return the tasks that had to become dead letters, and finished."""
    return [task for task in history.tasks.values() if task.kind.dead is not None and task.succeeded is not None]


def too_early(history: TaskHistory) -> list[Task]:
    """Return the tasks with an attempt that started before the end of its delay."""
    return [task for task in history.tasks.values() if any(early(task))]


def early(task: Task) -> Iterator[tuple[Run, float]]:
    """Return the executions of a task that started too early, and by how many seconds.

    A first attempt may not start before the end of the task's delay, counted from before it was enqueued; a later one
    not before the end of its retry's delay, counted from the earliest end of the attempt before it. An execution that
    is requeued without counting as an attempt, because its worker died, may start at once.
    """
    for run in task.runs:
        if run.attempt == 1:
            least = task.began + task.delay
        else:
            ends = [each.ended for each in task.runs if each.attempt == run.attempt - 1 and each.ended is not None]
            least = min(ends, default=float("inf")) + (task.after or least_backoff(run.attempt - 1))
        if run.began < least:
            yield run, least - run.began


def denied(history: TaskHistory) -> list[Task]:
    """Return the tasks that ran although `enqueue` or `publish` reported that they will not."""
    return [task for task in history.tasks.values() if task.outcome == REFUSED and task.runs]


def never_returned(history: TaskHistory) -> list[Task]:
    """Return the tasks whose `enqueue` or `publish` never ended."""
    return [task for task in history.tasks.values() if task.ended is None]


def failed_oddly(history: TaskHistory) -> list[Task]:
    """Return the tasks whose `enqueue` or `publish` raised an error that no fault explains."""
    known = {ACCEPTED, REFUSED, UNKNOWN, "never returned"}
    return [task for task in history.tasks.values() if task.outcome not in known]


def after_success(history: TaskHistory) -> dict[str, list[Task]]:
    """Return the tasks that started again after a recorded success, by the explanation."""
    found: dict[str, list[Task]] = {}
    for task in history.tasks.values():
        if (ended := task.succeeded) is not None:
            again = [run for run in task.runs if run.began > ended]
            if again:
                found.setdefault(why_again(history, task, ended, again[0]), []).append(task)
    return found


def why_again(history: TaskHistory, task: Task, ended: float, again: Run) -> str:
    """Return the nearest explanation of another execution.

    Another task killed its worker before the ack; or a fault broke its connection; or the broker had two copies
    already, because its publication, or that of an earlier attempt, was repeated.
    """
    if any(died_with(history, run) for run in task.runs if run.began < again.began):
        return "a task killed its worker"
    for what, begin, end in (
        ("", ended - BEFORE, again.began),
        (" (while it was enqueued)", task.began, task.ended or task.began),
        (" (in an earlier try)", task.began, ended),
    ):
        names = [fault.name for fault in history.faults if fault.injected <= end and begin <= fault.over + NOTICED]
        if names:
            return f"{names[-1]}{what}"
    return UNEXPLAINED


def died_with(history: TaskHistory, run: Run) -> bool:
    """Return whether a task killed an execution's worker before, or at about the time of, its ack."""
    died = history.deaths.get(run.pid)
    return died is not None and (run.ended is None or abs(died - run.ended) < ABOUT)


UNEXPLAINED = "no fault explains it"


def unexplained(history: TaskHistory) -> list[Task]:
    """Return the tasks that started again after their success although no fault explains it."""
    return after_success(history).get(UNEXPLAINED, [])


def at_once(history: TaskHistory) -> list[Task]:
    """Return the tasks with two finished executions at the same time."""
    return [
        task
        for task in history.tasks.values()
        if any(
            first.ended is not None and second.began < first.ended for first, second in itertools.pairwise(task.runs)
        )
    ]


#: The figures that must be zero, for tasks and events alike.
CHECKS: dict[str, Check] = {
    "accepted and lost": lost,
    "dead letters without cause": without_cause,
    "finished, and had to be a dead letter": ended_wrongly,
    "started before the end of its delay": too_early,
    "started after its SUCCESS, unexplained": unexplained,
    "error says that it will not run, and it ran": denied,
    "enqueue or publish never returned": never_returned,
    "enqueue or publish raised something else": failed_oddly,
}


def failures(history: TaskHistory) -> dict[str, list[Task]]:
    """Return the tasks that broke a promise, by part and promise."""
    return {
        f"{part}: {name}": found
        for part in PARTS
        for name, check in CHECKS.items()
        if (found := check(history.part(part)))
    }


def outcomes(history: TaskHistory) -> Counter[str]:
    """Count the tasks by the outcome of `enqueue` or `publish`."""
    return Counter(
        task.outcome if task.outcome in {ACCEPTED, "never returned"} else f"{task.outcome}: {task.said.split(':')[0]}"
        for task in history.tasks.values()
    )


def found_full(history: TaskHistory, seconds: float) -> list[Task]:
    """Return the delayed tasks whose first attempt started so many seconds late, because their queue refused them."""
    firsts = ((task, [run.began for run in task.runs if run.attempt == 1]) for task in history.tasks.values())
    return [task for task, began in firsts if task.delay and began and min(began) > task.due + seconds]
