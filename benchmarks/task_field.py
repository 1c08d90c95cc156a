"""The contenders of the cases with tasks: a client of each for the whole run, and workers when they are needed.

Their reports are checked: every enqueued task is in the queue, and a drained queue is empty.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pika

from amqp_rpc.message import topology
from benchmarks import task_cases
from benchmarks.contenders import OURS, Contender
from benchmarks.contenders.tasks import OUR_QUEUES, Worker, worker
from benchmarks.environments import UnavailableError
from benchmarks.field import Field, say
from benchmarks.measuring import Entry
from benchmarks.processes import BrokenError, Process, await_consumers
from benchmarks.protocol import Reply, Request

#: Seconds for a worker to start and run all tasks.
_DRAIN = 60.0
#: Seconds until a queue has the number of tasks that its client reports.
_SETTLE = 10.0


class TaskField(Field):
    """Contenders' clients, and the queues of their tasks; the arguments are those of `Field`."""

    _delayed = 0

    def enter(self, contenders: Sequence[Contender]) -> None:
        """Add the contenders that are available."""
        for contender in contenders:
            try:
                # This makes its environment, if it is missing.
                self._words(contender, contender.client)
                self.contenders[contender.name] = contender
            except UnavailableError as error:
                self._leave_out(contender, error)

    def _ask(self, entry: Entry) -> Reply:
        request = entry.request
        self._delay(request.get("delayed", 0))
        if request["case"] == "drain":
            return self._drain(entry.contender, worker(entry.contender, request["worker"]), request)
        if request["case"] == "result":
            return self._beside(entry, worker(entry.contender, request["worker"]))
        queue = request.get("queue", self.contenders[entry.contender].queue)
        self._purge(queue)
        reply = super()._ask(entry)
        if "calls" in reply:
            self._await(queue, reply["calls"])
        self._purge(queue)
        return reply

    def _drain(self, name: str, its: Worker, request: Request) -> Reply:
        """Fill a queue, and let a new worker empty it."""
        queue, count = self._queue(its), request["count"]
        self._purge(queue)
        reply = self._client(name).ask(task_cases.fill(its, count))
        if "calls" not in reply:
            return reply
        self._await(queue, count)
        report = self._logs / f"{name}.report"
        report.unlink(missing_ok=True)
        running = self._start(its, {"BENCH_COUNT": str(count), "BENCH_REPORT": str(report)})
        try:
            self._await_report(running, report, count)
        finally:
            running.end()
        told = json.loads(report.read_text())
        # All tasks were acked: none was requeued when the worker ended.
        self._await(queue, 0)
        # from the first to the last: one less
        return {"calls": count - 1, "seconds": told["seconds"]}

    def _beside(self, entry: Entry, its: Worker) -> Reply:
        """Let a client measure while a worker runs."""
        running = self._start(its, {})
        try:
            await_consumers(running, self._url, self._queue(its))
            return super()._ask(entry)
        finally:
            running.end()

    def _delay(self, count: int) -> None:
        """Enqueue tasks with a delay of an hour, until there are so many, or remove them."""
        if count == self._delayed:
            return
        level = topology.delay(topology.highest_level(topology.units(task_cases.HOUR)))
        if self._delayed:
            self._purge(level)
        self._delayed = count
        if count:
            began = time.monotonic()
            reply = self._client(OURS).ask(task_cases.delay(count))
            if reply.get("calls") != count:
                raise BrokenError(f"{count} delayed tasks could not be enqueued: {reply}")
            self._await(level, count)
            say(f"  {count} delayed tasks are enqueued, after {time.monotonic() - began:.1f} s")

    def _queue(self, its: Worker) -> str:
        return OUR_QUEUES[its.queue_type] if its.contender == OURS else self.contenders[its.contender].queue

    def _start(self, its: Worker, variables: dict[str, str]) -> Process:
        return self._run(its.contender, its.words, {**its.environment, **variables})

    def _run(self, name: str, words: tuple[str, ...], variables: Mapping[str, str]) -> Process:
        """Start a short-lived process of a contender."""
        contender = self.contenders[name]
        environment = {**self._variables(contender), **variables}
        started = Process(self._words(contender, words), self._log(contender, "worker"), environment, folder=self._tree)
        self._stack.callback(started.end)
        self.servers[name] = started
        return started

    def _await_report(self, running: Process, report: Path, count: int) -> None:
        """Wait for the report of a process.

        Raises:
            BrokenError: It ended, or did not do so in time.
        """
        until = time.monotonic() + _DRAIN
        while not report.exists():
            if not running.runs:
                raise BrokenError(f"its worker ended: {running.last_words}")
            if time.monotonic() > until:
                raise BrokenError(f"its worker did not run all {count} within {_DRAIN:g} s")
            time.sleep(0.02)

    def _await(self, queue: str, count: int) -> None:
        """Wait until a queue has so many tasks and no consumer.

        Raises:
            BrokenError: It does not, in time.
        """
        until = time.monotonic() + _SETTLE
        with pika.BlockingConnection(pika.URLParameters(self._url)) as connection:
            channel = connection.channel()
            while True:
                found = channel.queue_declare(queue, passive=True).method
                if (found.message_count, found.consumer_count) == (count, 0):
                    return
                if time.monotonic() > until:
                    has = f"{found.message_count} tasks and {found.consumer_count} consumers"
                    raise BrokenError(f"{queue} has {has}, not {count} and 0")
                time.sleep(0.05)

    def _purge(self, queue: str) -> None:
        """Empty a queue, if it is there."""
        with (
            pika.BlockingConnection(pika.URLParameters(self._url)) as connection,
            contextlib.suppress(pika.exceptions.ChannelClosedByBroker),
        ):
            connection.channel().queue_purge(queue)
