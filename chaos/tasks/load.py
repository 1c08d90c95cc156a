"""A producer: ``python -m chaos.tasks.load``. It enqueues a number of tasks, spread over some seconds, and ends.

It publishes events too. Each task is recorded before it is enqueued, and again with the outcome of `enqueue`:
``accepted``, ``refused`` (it will not run), ``unknown`` (it may run), or the name of another error. When its input
ends, it stops sending.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import sys
import threading
import time
from pathlib import Path

from amqp_rpc import Client
from chaos.tasks import served
from chaos.tasks.kinds import EVENTS, Plan, due, plan
from chaos.tasks.ledger import Ledger
from chaos.tasks.outcomes import outcome
from chaos.tasks.publishing import Publishing

#: Threads, each of which enqueues one task after another.
THREADS = 12


class Producer:
    """The load of one producer process."""

    def __init__(self, urls: list[str], *, number: int, tasks: int, seconds: float, seed: int, folder: Path) -> None:
        self._client = Client(urls, heartbeat=2)
        self._ledger = Ledger(folder, f"producer-{number}")
        self._first = number * 10_000_000
        self._tasks = tasks
        self._pause = seconds / max(1, tasks)
        self._chance = random.Random(f"{seed} {number}")  # noqa: S311 - repeatable, not a secret
        self._lock = threading.Lock()
        self._made = 0
        self._stopping = threading.Event()
        self._publishing = Publishing(
            self._client,
            self._ledger,
            first=self._first,
            events=int(tasks * EVENTS),
            seconds=seconds,
            chance=random.Random(f"{seed} {number} events"),  # noqa: S311 - as above
            stopping=self._stopping,
        )

    def run(self) -> None:
        """Enqueue and publish until all is sent or the input ends."""
        threading.Thread(target=self._watch, daemon=True).start()
        threads = [threading.Thread(target=self._enqueue, args=(time.monotonic(),)) for _ in range(THREADS)]
        threads.append(threading.Thread(target=self._publishing.run))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _watch(self) -> None:
        sys.stdin.buffer.read()
        self._stopping.set()

    def _enqueue(self, began: float) -> None:
        while not self._stopping.is_set():
            with self._lock:
                number, planned = self._made, plan(self._made, self._chance)
                self._made += 1
            if number >= self._tasks or self._stopping.wait(
                max(0, began + due(number) * self._pause - time.monotonic())
            ):
                return
            self._one(self._first + number, planned)

    def _one(self, key: int, planned: Plan) -> None:
        self._ledger.add(
            "tasks", key=key, kind=planned.kind.name, delay=planned.delay, fails=planned.fails, after=planned.after,
            timeout=planned.timeout, began=time.monotonic(),
        )  # fmt: skip
        identity, error = None, None
        try:
            identity = self._client.enqueue(
                getattr(served, planned.kind.function), key, planned.seconds, planned.fails, planned.after,
                delay=planned.delay or None, timeout=planned.timeout,
            ).id  # fmt: skip
        except Exception as raised:
            error = raised
        ended, said = outcome(error)
        self._ledger.complete("tasks", key, ended=time.monotonic(), outcome=ended, id=identity, said=said[:300])


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(prog="chaos.tasks.load")
    parser.add_argument("--url", action="append", required=True)
    parser.add_argument("--number", type=int, required=True)
    parser.add_argument("--tasks", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args()
    logging.basicConfig(
        level="INFO", format="%(asctime)s %(relativeCreated)d %(levelname)s %(message)s", stream=sys.stderr
    )
    logging.getLogger("pika").setLevel(logging.CRITICAL)
    Producer(
        given.url, number=given.number, tasks=given.tasks, seconds=given.seconds, seed=given.seed, folder=given.folder
    ).run()
    os._exit(0)


if __name__ == "__main__":
    main()
