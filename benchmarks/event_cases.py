"""The cases with events: what each contender is asked for, and their queues."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pika

from benchmarks.cases import SIZE
from benchmarks.contenders import OURS, Contender
from benchmarks.contenders.events import FAN_OUT, FASTSTREAM, KOMBU, TYPES
from benchmarks.measuring import Entry
from benchmarks.processes import await_consumers
from benchmarks.protocol import Reply
from benchmarks.task_field import TaskField

#: Cases that are measured in the same rounds: an event at a time, and many, for they are compared.
GROUPS = ["no", "p"]
#: Rounds at most, where each starts processes.
ROUNDS = {"no": 5, "p": 3}
#: Events that are fanned out; and in a quick run.
_FANNED, _QUICK_FANNED = 500, 50
#: The exchange for what is published to one queue.
_EXCHANGE = "bench.events"


def entries(case: str, names: Sequence[str], *, seconds: float, quick: bool) -> list[Entry]:
    """Return the entries of a case: one for each figure that is measured.

    Args:
        case: Its letter.
        names: The contenders that are there.
        seconds: How long each is measured in each round, where time is what bounds it.
        quick: Whether it is only to be seen that all works.
    """
    found = []
    for kind in TYPES:
        queue = f"bench.events.{kind}"
        asked = {"size": SIZE, "seconds": seconds, "queue_type": kind}
        published = {**asked, "exchange": _EXCHANGE, "topic": queue, "queue": queue}
        for name in names:
            if case == "n" and name != FASTSTREAM:
                found.append(Entry(case, name, {**published, "case": "publish"}, kind))
            if case == "o" and name not in (FASTSTREAM, KOMBU):
                found.append(Entry(case, name, {**published, "case": "publish_many"}, kind))
            if case == "p" and name in (OURS, FASTSTREAM):
                its = FAN_OUT[name, kind]
                count = _QUICK_FANNED if quick else _FANNED
                request = {**asked, "case": "fill", "exchange": its.exchange, "topic": "bench.fan", "count": count}
                found.append(Entry(case, name, request, kind))
    return found


class EventField(TaskField):
    """Contenders' clients, and the queues of their events; the arguments are those of `Field`."""

    def enter(self, contenders: Sequence[Contender]) -> None:
        """Take in who can be had, and make the exchange and the queues that they publish to."""
        super().enter(contenders)
        with pika.BlockingConnection(pika.URLParameters(self._url)) as connection:
            channel = connection.channel()
            channel.exchange_declare(_EXCHANGE, "topic", durable=True)
            for kind in TYPES:
                queue = f"bench.events.{kind}"
                channel.queue_declare(queue, durable=True, arguments={"x-queue-type": kind})
                channel.queue_bind(queue, _EXCHANGE, queue)

    def _variables(self, contender: Contender) -> dict[str, str]:
        return {**super()._variables(contender), "BENCH_EXCHANGE": _EXCHANGE}

    def _ask(self, entry: Entry) -> Reply:
        if entry.case == "p":
            return self._fan_out(entry)
        queue = entry.request["queue"]
        self._purge(queue)
        reply = self._client(entry.contender).ask(entry.request)
        if "calls" in reply:
            # Every event that was reported as published is in the queue.
            self._await(queue, reply["calls"])
        self._purge(queue)
        return reply

    def _fan_out(self, entry: Entry) -> Reply:
        """Have new subscribers handle what is published."""
        its = FAN_OUT[entry.contender, entry.request["queue_type"]]
        count = entry.request["count"] * len(its.queues)
        for queue in its.queues:
            self._purge(queue)
        report = self._logs / f"{its.contender}.report"
        report.unlink(missing_ok=True)
        told = {"BENCH_COUNT": str(count), "BENCH_REPORT": str(report)}
        running = self._run(its.contender, its.words, {**its.environment, **told})
        try:
            for queue in its.queues:
                await_consumers(running, self._url, queue)
            reply = self._client(its.contender).ask(entry.request)
            if "calls" not in reply:
                return reply
            self._await_report(running, report, count)
        finally:
            running.end()
        for queue in its.queues:
            # All are acknowledged: none came back when their process ended.
            self._await(queue, 0)
        # from the first to the last: one less
        return {"calls": count - 1, "seconds": json.loads(report.read_text())["seconds"]}
