"""A run's figures as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from chaos.tasks.history import Task, TaskHistory
from chaos.tasks.kinds import KINDS
from chaos.tasks.verdict import CHECKS, after_success, at_once, early, outcomes

#: How many tasks that went wrong are told in detail, of each kind.
MOST_DETAILS = 10


def lines(history: TaskHistory) -> Iterator[str]:
    """Return the table."""
    tasks = list(history.tasks.values())
    runs = [run for task in tasks for run in task.runs]
    made = _span([task.began for task in tasks])
    ran = _span([run.began for run in runs])
    yield f"   {'tasks enqueued':56} {len(tasks):7}   ({len(tasks) / made:.0f}/s)"
    for outcome, count in outcomes(history).most_common():
        yield f"     {outcome:54} {count:7}"
    yield f"   {'executions':56} {len(runs):7}   ({len(runs) / ran:.0f}/s)"
    yield f"   {'of these cut off: their worker died':56} {sum(run.ended is None for run in runs):7}"
    yield f"   {'kind':41} {'accepted':>8} {'ran to end':>10} {'dead':>5} {'both':>4}"
    for kind in KINDS.values():
        of_kind = [task for task in tasks if task.kind is kind and task.accepted]
        ended = sum(task.succeeded is not None for task in of_kind)
        dead = sum(bool(task.dead) for task in of_kind)
        both = sum(bool(task.dead) and task.succeeded is not None for task in of_kind)
        yield f"     {kind.name:39} {len(of_kind):8} {ended:10} {dead:5} {both:4}"
    for name, check in CHECKS.items():
        yield f"   {name + ' (must be 0)':56} {len(check(history)):7}"
    doubtful = [task for task in tasks if task.outcome == "unknown"]
    came = sum(bool(task.runs or task.dead) for task in doubtful)
    yield f"   {'enqueue did not know, and it ran or is a dead letter':56} {came:7}"
    again = after_success(history)
    yield f"   {'began after its SUCCESS was recorded':56} {sum(map(len, again.values())):7}   explained by"
    for why, of_why in sorted(again.items(), key=lambda item: -len(item[1])):
        yield f"     {why:54} {len(of_why):7}"
    yield f"   {'ran twice at the same time':56} {len(at_once(history)):7}"
    yield f"   {'dead letters, more than one of a task':56} {sum(len(task.dead) > 1 for task in tasks):7}"


def details(history: TaskHistory, failed: Mapping[str, list[Task]]) -> Iterator[str]:
    """Return what is known of tasks that went wrong."""
    for name, tasks in failed.items():
        yield f"-- {name}: {len(tasks)}"
        for task in tasks[:MOST_DETAILS]:
            ended = "never" if task.ended is None else f"{task.ended:.2f}"
            yield (
                f"   task {task.key} [{task.id}] {task.kind.name}, delay {task.delay}, fails {task.fails}, after "
                f"{task.after}: enqueued {task.began:.2f} to {ended}: {task.outcome} {task.said}"
            )
            for run in task.runs:
                until = "cut off" if run.ended is None else f"{run.ended:.3f} {run.outcome}"
                yield f"      try {run.attempt} on {run.pid}: {run.began:.3f} to {until}"
            for letter in task.dead:
                yield f"      dead letter: try {letter.attempt}, crashes {letter.crashes}: {letter.reason[:150]}"
            for run, seconds in early(task):
                yield f"      try {run.attempt} on {run.pid} began {seconds:.3f} s too early"
            last = max([task.began, *(run.ended or run.began for run in task.runs)])
            yield f"      meanwhile: {'; '.join(history.on(task.began, last)) or 'no fault'}"


def _span(times: list[float]) -> float:
    return max(times, default=0.0) - min(times, default=0.0) or 1.0
