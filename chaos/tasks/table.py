"""The figures of a run as lines of text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from chaos.tasks.history import Task, TaskHistory
from chaos.tasks.kinds import BOUNDED, KINDS, OF_EVENTS, PARTS
from chaos.tasks.outcomes import UNKNOWN
from chaos.tasks.stage import AGAIN
from chaos.tasks.verdict import CHECKS, after_success, at_once, early, found_full, outcomes

#: The most failed tasks that are shown in detail, for each kind of failure.
MOST_DETAILS = 10


def lines(history: TaskHistory) -> Iterator[str]:
    """Yield the lines of the table."""
    parts = [history.part(name) for name in PARTS]
    tasks = [task for task in history.tasks.values() if task.kind.part != OF_EVENTS]
    runs = [run for task in history.tasks.values() for run in task.runs]
    made, ran = _span([task.began for task in tasks]), _span([run.began for run in runs])
    yield f"   {'tasks enqueued':56} {len(tasks):7}   ({len(tasks) / made:.0f}/s)"
    yield f"   {'events published, for each subscription that they match':56} {len(history.tasks) - len(tasks):7}"
    yield f"   {'executions':56} {len(runs):7}   ({len(runs) / ran:.0f}/s)"
    yield f"   {'kind':41} {'accepted':>8} {'ran to end':>10} {'dead':>5} {'both':>4}"
    for kind in KINDS.values():
        of_kind = [task for task in history.tasks.values() if task.kind is kind and task.accepted]
        ended = sum(task.succeeded is not None for task in of_kind)
        dead = sum(bool(task.dead) for task in of_kind)
        both = sum(bool(task.dead) and task.succeeded is not None for task in of_kind)
        yield f"     {kind.name:39} {len(of_kind):8} {ended:10} {dead:5} {both:4}"
    yield f"   {'queue':48} {' '.join(f'{name:>7}' for name in PARTS)}"
    ends = [outcomes(part) for part in parts]
    for outcome, _ in outcomes(history).most_common():
        yield _row(outcome, (each[outcome] for each in ends))
    yield "   must be 0"
    for name, check in CHECKS.items():
        yield _row(name, (len(check(part)) for part in parts))
    yield "   counted"
    yield _row("executions cut off by their worker's death", (_cut_off(part) for part in parts))
    yield _row("enqueue or publish was not sure, and it ran", (_came(part) for part in parts))
    yield _row("ran twice at the same time", (len(at_once(part)) for part in parts))
    more = (sum(len(task.dead) > 1 for task in part.tasks.values()) for part in parts)
    yield _row("dead letters, more than one of a task", more)
    again = [after_success(part) for part in parts]
    yield _row("began after its SUCCESS was recorded", (sum(map(len, each.values())) for each in again))
    for why in dict.fromkeys(why for each in again for why in each):
        yield _row(f"  {why}", (len(each.get(why, ())) for each in again))
    late = len(found_full(history.part(BOUNDED), AGAIN))
    yield f"   delayed tasks that the bounded queue took {AGAIN} s and more after their time: {late}"


def details(history: TaskHistory, failed: Mapping[str, list[Task]]) -> Iterator[str]:
    """Yield the details of tasks that broke a promise."""
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
                yield f"      attempt {run.attempt} on {run.pid}: {run.began:.3f} to {until}"
            for letter in task.dead:
                yield f"      dead letter: attempt {letter.attempt}, crashes {letter.crashes}: {letter.reason[:150]}"
            for run, seconds in early(task):
                yield f"      attempt {run.attempt} on {run.pid} began {seconds:.3f} s too early"
            last = max([task.began, *(run.ended or run.began for run in task.runs)])
            yield f"      meanwhile: {'; '.join(history.on(task.began, last)) or 'no fault'}"


def _row(name: str, values: Iterable[int]) -> str:
    return f"     {name:46} {' '.join(f'{value:7}' for value in values)}"


def _cut_off(history: TaskHistory) -> int:
    return sum(run.ended is None for task in history.tasks.values() for run in task.runs)


def _came(history: TaskHistory) -> int:
    doubtful = [task for task in history.tasks.values() if task.outcome == UNKNOWN]
    return sum(bool(task.runs or task.dead) for task in doubtful)


def _span(times: list[float]) -> float:
    return max(times, default=0.0) - min(times, default=0.0) or 1.0
