"""What must be zero, and what is only told: the checks of a run's history. Pure."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator

from chaos.tasks.history import Run, Task, TaskHistory
from chaos.tasks.kinds import PARTS, least_backoff
from chaos.tasks.outcomes import ACCEPTED, REFUSED, UNKNOWN

#: Seconds before a run's recorded end in which what kept it from being acknowledged may have begun: the record is
#: written before the function returns. And after a fault, in which a broken connection is noticed by its heartbeat.
BEFORE, NOTICED = 0.5, 8.0
#: Seconds between the record that a task will kill its worker, and a run's that could not be acknowledged by then.
ABOUT = 3.0

Check = Callable[[TaskHistory], list[Task]]


def lost(history: TaskHistory) -> list[Task]:
    """Return the accepted tasks that neither ran to their end nor are dead letters."""
    return [task for task in history.missing() if not task.dead]


def without_cause(history: TaskHistory) -> list[Task]:
    """Return the tasks that are dead letters for a reason that is not their kind's."""
    return [
        task
        for task in history.tasks.values()
        if any(task.kind.dead is None or task.kind.dead not in letter.reason for letter in task.dead)
    ]


def ended_wrongly(history: TaskHistory) -> list[Task]:
    """Return the tasks that had to become dead letters, and ran to an end."""
    return [task for task in history.tasks.values() if task.kind.dead is not None and task.succeeded is not None]


def too_early(history: TaskHistory) -> list[Task]:
    """Return the tasks of which a try began before its delay was over."""
    return [task for task in history.tasks.values() if any(early(task))]


def early(task: Task) -> Iterator[tuple[Run, float]]:
    """Return the runs of a task that began too early, and by how many seconds.

    A first try may not begin before the task's delay is over, counted from before it was enqueued; a later one not
    before its retry's delay is, counted from the end of the try before it, the earliest where there were several. A
    run that is given back and not counted as a try, since its worker died, may begin at once.
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
    """Return the tasks of which `enqueue` or `publish` said that they will not run, and that ran."""
    return [task for task in history.tasks.values() if task.outcome == REFUSED and task.runs]


def never_returned(history: TaskHistory) -> list[Task]:
    """Return the tasks whose `enqueue`, or `publish`, never ended."""
    return [task for task in history.tasks.values() if task.ended is None]


def failed_oddly(history: TaskHistory) -> list[Task]:
    """Return the tasks whose `enqueue`, or `publish`, raised what no fault explains."""
    known = {ACCEPTED, REFUSED, UNKNOWN, "never returned"}
    return [task for task in history.tasks.values() if task.outcome not in known]


def after_success(history: TaskHistory) -> dict[str, list[Task]]:
    """Return the tasks of which a run began after an earlier one's success was recorded, by what explains it."""
    found: dict[str, list[Task]] = {}
    for task in history.tasks.values():
        if (ended := task.succeeded) is not None:
            again = [run for run in task.runs if run.began > ended]
            if again:
                found.setdefault(why_again(history, task, ended, again[0]), []).append(task)
    return found


def why_again(history: TaskHistory, task: Task, ended: float, again: Run) -> str:
    """Return what explains that a task began once more: the nearest first.

    Its worker was killed, by another task, before it had acknowledged; or a fault broke its connection; or there were
    two of it before: its publication was repeated, or an earlier try's.
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
    """Return whether a task killed a run's worker before the run could be acknowledged, or about then."""
    died = history.deaths.get(run.pid)
    return died is not None and (run.ended is None or abs(died - run.ended) < ABOUT)


UNEXPLAINED = "no fault explains it"


def unexplained(history: TaskHistory) -> list[Task]:
    """Return the tasks that began after their success, where no fault explains it."""
    return after_success(history).get(UNEXPLAINED, [])


def at_once(history: TaskHistory) -> list[Task]:
    """Return the tasks of which two runs, both with an end, were under way at the same time."""
    return [
        task
        for task in history.tasks.values()
        if any(
            first.ended is not None and second.began < first.ended for first, second in itertools.pairwise(task.runs)
        )
    ]


#: What must be zero, of tasks and events alike.
CHECKS: dict[str, Check] = {
    "accepted and lost": lost,
    "dead letters without cause": without_cause,
    "ran to an end, and had to be a dead letter": ended_wrongly,
    "began earlier than its delay": too_early,
    "began after its SUCCESS, unexplained": unexplained,
    "it 'will not run', was said, and it ran": denied,
    "enqueue or publish never returned": never_returned,
    "enqueue or publish raised something else": failed_oddly,
}


def failures(history: TaskHistory) -> dict[str, list[Task]]:
    """Return the tasks that broke a promise, by which, and of what part."""
    return {
        f"{part}: {name}": found
        for part in PARTS
        for name, check in CHECKS.items()
        if (found := check(history.part(part)))
    }


def outcomes(history: TaskHistory) -> Counter[str]:
    """Return how many times `enqueue` or `publish` ended how."""
    return Counter(
        task.outcome if task.outcome in {ACCEPTED, "never returned"} else f"{task.outcome}: {task.said.split(':')[0]}"
        for task in history.tasks.values()
    )


def found_full(history: TaskHistory, seconds: float) -> list[Task]:
    """Return the delayed tasks whose first try began so many seconds too late: their queue took them no sooner."""
    firsts = ((task, [run.began for run in task.runs if run.attempt == 1]) for task in history.tasks.values())
    return [task for task, began in firsts if task.delay and began and min(began) > task.due + seconds]
