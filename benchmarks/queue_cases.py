"""The cases with queues between processes: what each contender is asked for."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.cases import SIZE
from benchmarks.contenders import FLOOR, OURS
from benchmarks.contenders.queues import KOMBU, TYPES
from benchmarks.measuring import Entry
from benchmarks.protocol import Reply
from benchmarks.task_field import TaskField

#: Items that are taken from a queue that was filled; and in a quick run.
_TAKEN, _QUICK_TAKEN = 5000, 300
#: Variants, by case.
_WAYS = {"q": ["put"], "r": ["take"], "s": ["through"]}
#: The way that only ours has: `put` without waiting for each confirm.
MANY = "put_many"


def variant(queue_type: str, way: str = "") -> str:
    """Return the name of a variant."""
    return f"{queue_type}, {way}" if way else queue_type


def entries(case: str, names: Sequence[str], *, seconds: float, quick: bool) -> list[Entry]:
    """Return the entries of a case: one for each figure that is measured.

    Args:
        case: Its letter.
        names: The contenders that are there.
        seconds: How long each is measured in each round, where time is what bounds it.
        quick: Whether it is only to be seen that all works.
    """
    found = []
    for queue_type in TYPES:
        for name in (each for each in (OURS, KOMBU) if each in names):
            for way in _WAYS[case] + ([MANY] if (case, name) == ("q", OURS) else []):
                request = {
                    "case": way, "size": SIZE, "seconds": seconds, "count": _QUICK_TAKEN if quick else _TAKEN,
                    "queue_type": queue_type, "queue": f"bench.queue.{name}.{queue_type}",
                }  # fmt: skip
                found.append(Entry(case, name, request, variant(queue_type, way if way == MANY else "")))
    if case == "q" and FLOOR in names:
        # A classic queue, as its tasks' is.
        request = {
            "case": "enqueue",
            "size": SIZE,
            "seconds": seconds,
            "queue_type": "classic",
            "queue": "bench.queue.c",
        }
        found.append(Entry(case, FLOOR, request, "classic"))
    return found


class QueueField(TaskField):
    """Contenders' clients, and their queues; the arguments are those of `Field`."""

    def _ask(self, entry: Entry) -> Reply:
        request = entry.request
        self._purge(request["queue"])
        reply = self._client(entry.contender).ask(request)
        if "calls" in reply:
            # Every item that was reported as put is in the queue, and no item that was taken.
            self._await(request["queue"], reply["calls"] if entry.case == "q" else 0)
        self._purge(request["queue"])
        return reply
