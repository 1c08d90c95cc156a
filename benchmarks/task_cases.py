"""The cases with tasks."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.cases import SIZE
from benchmarks.contenders import OURS
from benchmarks.contenders.tasks import OUR_QUEUES, QUORUM, WORKERS, Worker
from benchmarks.measuring import Entry

#: Cases that are measured in the same rounds. The peers can only enqueue one task at a time, so j and k are together.
GROUPS = ["jk", "l", "m"]
#: The most rounds of slow cases.
ROUNDS = {"jk": 4, "l": 3, "m": 4}
#: Tasks that wait for a worker, and tasks with a delay of an hour; the same for a quick run.
DRAINED, QUICK_DRAINED = 15_000, 300
DELAYED, QUICK_DELAYED = 100_000, 2000
HOUR = 3600.0
#: The variants of ours: name, type of the queue, and whether tasks have results.
_WAYS = [("", "classic", False), ("with results", "classic", True), ("quorum", "quorum", False)]
#: Variants of case (m).
RESULT, DRAIN = "enqueue to result", "drain"


def beside(variant: str, delayed: int) -> str:
    """Return the name of a variant of case (m) beside a number of delayed tasks."""
    return f"{variant}, beside {delayed:_} delayed".replace("_", " ")


def entries(case: str, names: Sequence[str], *, seconds: float, quick: bool) -> list[Entry]:
    """Return the entries of a case: one for each figure that is measured.

    Args:
        case: Its letter.
        names: The available contenders.
        seconds: How long each is measured in each round, where time is what bounds it.
        quick: Whether the run only checks that everything works.
    """
    drained = QUICK_DRAINED if quick else DRAINED
    match case:
        case "j" | "k":
            ours = {
                variant: {
                    "size": SIZE, "seconds": seconds, "queue_type": kind, "queue": OUR_QUEUES[kind], "results": results,
                }
                for variant, kind, results in _WAYS
            }  # fmt: skip
            todo = {"j": "enqueue", "k": "enqueue_many"}[case]
            mine = [
                Entry(case, OURS, {**request, "case": todo}, variant)
                for variant, request in ours.items()
                if OURS in names
            ]
            others = [Entry(case, name, {"case": todo, "size": SIZE, "seconds": seconds}) for name in names
                      if name != OURS and case == "j"]  # fmt: skip
            return mine + others
        case "l":
            return [_drain(case, each, each.variant, drained) for each in WORKERS if each.contender in names]
        case "m" if OURS in names:
            return [
                each
                for delayed in (0, QUICK_DELAYED if quick else DELAYED)
                for each in (
                    _result(beside(RESULT, delayed), max(5 * seconds, 1.0), delayed),
                    _drain(case, QUORUM, beside(DRAIN, delayed), drained, delayed=delayed),
                )
            ]
    return []


def _drain(case: str, worker: Worker, variant: str, count: int, *, delayed: int = 0) -> Entry:
    request = {"case": "drain", "worker": worker.variant, "count": count, "delayed": delayed}
    return Entry(case, worker.contender, request, variant)


def _result(variant: str, seconds: float, delayed: int) -> Entry:
    request = {"case": "result", "worker": QUORUM.variant, "size": SIZE, "seconds": seconds, "delayed": delayed,
               "queue_type": "quorum"}  # fmt: skip
    return Entry("m", OURS, request, variant)


def fill(worker: Worker, count: int) -> dict[str, object]:
    """Return the request that fills a worker's queue."""
    return {"case": "fill", "count": count, "size": SIZE, "seconds": 20.0, "queue_type": worker.queue_type,
            "results": worker.results}  # fmt: skip


def delay(count: int) -> dict[str, object]:
    """Return the request for a number of tasks with a delay of an hour."""
    return {**fill(QUORUM, count), "seconds": 60.0, "delay": HOUR}
