"""A client process under constant load: ``python -m chaos.load``. It records every call and its outcome.

It measures itself at rest, prints ``ready`` and starts. When its input ends, it starts no more calls, waits for those
in flight, measures itself again and ends.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import logging
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amqp_rpc import AmqpRpcError, AsyncClient, Client, RemoteError
from chaos.record import CALLS, Record
from chaos.served import answer

#: Threads, and tasks of one event loop, each of which makes one call after another.
THREADS, TASKS = 5, 10
#: Timeouts of calls, and durations of their functions: mostly short, sometimes longer than a heartbeat.
TIMEOUTS = (0.5, 1.0, 2.0, 5.0, 10.0)
TIMEOUT_WEIGHTS = (15, 15, 15, 20, 35)
#: The timeout of a tenth of the idempotent calls: long enough to outlive each fault.
LONG = 60.0
DURATIONS = ((0.0, 0.02), (0.05, 0.2), (0.5, 1.0), (2.0, 4.0))
DURATION_WEIGHTS = (75, 18, 5, 2)
#: The longest pause between two calls of one thread or task.
PAUSE = 0.12
#: Calls before the first measure, to fill caches and start every thread.
WARM_UP = 300
#: Seconds beyond `LONG` after which a call counts as hung.
PATIENCE = 5.0
#: Seconds for a client at rest to free the memory of its last calls.
SETTLE = 10.0

FUNCTIONS = (("pure", True), ("pure_async", True), ("once", False), ("once_async", False), ("refuse", False))
FUNCTION_WEIGHTS = (35, 15, 25, 15, 10)


@dataclass(frozen=True)
class Plan:
    """One call, before it is made."""

    function: str
    idempotent: bool
    waits: bool
    timeout: float
    seconds: float


def plans(chance: random.Random) -> Plan:
    """Return the next call of a thread."""
    (function, idempotent), *_ = chance.choices(FUNCTIONS, FUNCTION_WEIGHTS)
    span, *_ = chance.choices(DURATIONS, DURATION_WEIGHTS)
    timeout, *_ = chance.choices(TIMEOUTS, TIMEOUT_WEIGHTS)
    patient = idempotent and chance.random() < 0.1  # noqa: PLR2004 - a tenth
    return Plan(
        function=function,
        idempotent=idempotent,
        waits=chance.random() < 0.5,  # noqa: PLR2004 - half of them
        timeout=LONG if patient else timeout,
        seconds=round(chance.uniform(*span), 4),
    )


class Load:
    """The load of one client process."""

    def __init__(self, urls: list[str], number: int, seed: int, folder: Path) -> None:
        self._record = Record(folder / CALLS)
        self._number = number
        self._seed = seed
        self._client = Client(urls, heartbeat=2)
        self._async_client = AsyncClient(urls, heartbeat=2)
        self._numbers = itertools.count(number * 10_000_000)
        self._stopping = threading.Event()

    def run(self) -> None:
        """Call until the input ends."""
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, name="load tasks", daemon=True).start()
        for each in range(WARM_UP):
            self._client.call("chaos.pure", -each, 0.0, wait_for_server=True)
            asyncio.run_coroutine_threadsafe(
                self._async_client.call("chaos.pure", -each, 0.0, wait_for_server=True), loop
            ).result()
        begin = self._measure()
        self._record.write(client=self._number, pid=os.getpid(), at="begin", **begin)
        threads = [threading.Thread(target=self._calls, args=(each,), daemon=True) for each in range(THREADS)]
        tasks = [asyncio.run_coroutine_threadsafe(self._async_calls(THREADS + each), loop) for each in range(TASKS)]
        for thread in threads:
            thread.start()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.buffer.read()
        self._stopping.set()
        until = time.monotonic() + LONG + PATIENCE
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        while not all(task.done() for task in tasks) and time.monotonic() < until:
            time.sleep(0.05)
        for task in tasks:
            if task.done():
                task.result()
        del threads, tasks
        self._record.write(client=self._number, pid=os.getpid(), at="end", **self._settled(begin))
        for client in (self._client, self._async_client):
            self._record.write(client=self._number, counters=dict(client.counters))

    def _calls(self, thread: int) -> None:
        chance = self._chance(thread)
        while not self._stopping.wait(chance.uniform(0, PAUSE)):
            plan = plans(chance)
            number, began = self._begun(plan, thread)
            try:
                outcome = self._client.call(
                    f"chaos.{plan.function}", number, plan.seconds, timeout=plan.timeout,
                    idempotent=plan.idempotent, wait_for_server=plan.waits,
                )  # fmt: skip
            except Exception as error:
                outcome = error
            self._ended(number, began + plan.timeout, time.monotonic(), outcome)

    async def _async_calls(self, thread: int) -> None:
        chance = self._chance(thread)
        while not self._stopping.is_set():
            await asyncio.sleep(chance.uniform(0, PAUSE))
            plan = plans(chance)
            number, began = self._begun(plan, thread)
            try:
                outcome = await self._async_client.call(
                    f"chaos.{plan.function}", number, plan.seconds, timeout=plan.timeout,
                    idempotent=plan.idempotent, wait_for_server=plan.waits,
                )  # fmt: skip
            except Exception as error:
                outcome = error
            self._ended(number, began + plan.timeout, time.monotonic(), outcome)

    def _chance(self, thread: int) -> random.Random:
        return random.Random(f"{self._seed} {self._number} {thread}")  # noqa: S311 - no secret

    def _begun(self, plan: Plan, thread: int) -> tuple[int, float]:
        number = next(self._numbers)
        began = time.monotonic()
        self._record.write(call=number, client=self._number, thread=thread, began=began, **vars(plan))
        return number, began

    def _ended(self, number: int, deadline: float, ended: float, outcome: Any) -> None:
        if isinstance(outcome, Exception):
            refused = isinstance(outcome, RemoteError)
            ours = isinstance(outcome, AmqpRpcError)
            result = {
                "outcome": type(outcome).__name__ if not refused else "RemoteError",
                "right": str(outcome) == str(number) and isinstance(outcome, ValueError) if refused else ours,
                "may_have_run": outcome.may_have_run if isinstance(outcome, AmqpRpcError) else True,
                "said": str(outcome)[:300],
            }
        else:
            right = outcome == answer(number)
            result = {"outcome": "result", "right": right, "may_have_run": True, "said": "" if right else repr(outcome)}
        self._record.write(call=number, deadline=deadline, ended=ended, **result)

    def _measure(self) -> dict[str, int]:
        """Return the memory, threads, descriptors and pending calls of this process."""
        gc.collect()
        links = [_link(entry) for entry in Path("/proc/self/fd").iterdir()]
        sessions = [self._client._session, self._async_client._blocking._session]  # noqa: SLF001 - nothing may leak
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return {
            "threads": threading.active_count(),
            "sockets": sum(link.startswith("socket:") for link in links),
            "files": len(links),
            "pending": sum(len(session.pending) for session in sessions),
            "memory": pages * os.sysconf("SC_PAGE_SIZE"),
        }

    def _settled(self, begin: dict[str, int]) -> dict[str, int]:
        """Return the measure when it equals that of the beginning, or after some seconds."""
        until = time.monotonic() + SETTLE
        counted: Callable[[dict[str, int]], list[int]] = lambda found: [found[key] for key in found if key != "memory"]  # noqa: E731
        while counted(found := self._measure()) != counted(begin) and time.monotonic() < until:
            time.sleep(0.1)
        return found


def _link(entry: Path) -> str:
    try:
        return str(entry.readlink())
    except OSError:  # the descriptor of this very listing
        return ""


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(prog="chaos.load")
    parser.add_argument("--url", action="append", required=True)
    parser.add_argument("--number", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args()
    logging.basicConfig(
        level="INFO", format="%(asctime)s %(relativeCreated)d %(levelname)s %(message)s", stream=sys.stderr
    )
    logging.getLogger("pika").setLevel(logging.CRITICAL)
    Load(given.url, given.number, given.seed, given.folder).run()
    os._exit(0)  # a call that hangs must not keep the process


if __name__ == "__main__":
    main()
