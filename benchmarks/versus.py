"""``python -m benchmarks.versus FOLDER``: this checkout beside another one of the project, in turns, in one run.

Both run on one private RabbitMQ, each in a virtual host and an environment of its own: the other checkout needs a
``.venv`` with its package. A case's figure is the median of the ratios of each round, this checkout's to the other's.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from amqp_rpc.broker.node import Node
from benchmarks import cases, event_cases, queue_cases, task_cases
from benchmarks.contenders import ALL, OURS
from benchmarks.contenders.events import EVENTS
from benchmarks.contenders.queues import QUEUES
from benchmarks.contenders.tasks import OUR_QUEUES, TASKS
from benchmarks.environments import HERE
from benchmarks.field import Field, say
from benchmarks.measuring import Entry, ratios
from benchmarks.task_field import TaskField
from tests.nodes import COMMAND

#: Cases that compare our own versions well: all but the open loop, the sleeping handlers and what is idle.
_CASES = "abcdehjklmnopqrst"
#: Tasks that asyncio enqueues at the same time.
_TOGETHER = 100


class _AwaitedField(TaskField):
    """Only asyncio's ``enqueue``: its client enqueues one task more than it counts, to connect."""

    def _await(self, queue: str, count: int) -> None:
        super()._await(queue, count + 1)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.versus", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("other", type=Path, help="another checkout, with its own .venv")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.2)
    parser.add_argument("--cases", default=_CASES)
    options = parser.parse_args()
    other = options.other.resolve()
    if not (other / ".venv" / "bin" / "python").exists():
        parser.error(f"{other} has no .venv with its package")
    with ExitStack() as stack:
        found = measure(options, other, stack)
    print(f"This checkout beside {_revision(other)}: {options.rounds} rounds of {options.seconds:g} s\n")
    print("| case | before | now | ratio | min–max |\n| --- | ---: | ---: | ---: | --- |")
    for before, now in found:
        each = ratios(now, before)
        title = f"({now.case}) {'asyncio, 100 tasks that enqueue' if now.case == 't' else cases.TITLES[now.case]}"
        title += f", {now.variant}" if now.variant else ""
        if each:
            middle, low, high = statistics.median(each), min(each), max(each)
            print(f"| {title} | {before.median:.0f} | {now.median:.0f} | {middle:.2f} | {low:.2f}–{high:.2f} |")
        else:
            print(f"| {title} | {before.median} | {now.median} | – | {(before.failures or now.failures)[-1:]} |")


def measure(options: argparse.Namespace, other: Path, stack: ExitStack) -> list[tuple[Entry, Entry]]:
    logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="amqp_rpc-versus-")))
    node = stack.enter_context(Node(command=COMMAND))
    kinds: list[tuple[str, type[Field]]] = [
        (cases.OF_CALLS, Field),
        (cases.WITH_TASKS, TaskField),
        (cases.WITH_EVENTS, event_cases.EventField),
        (cases.WITH_QUEUES, queue_cases.QueueField),
        ("t", _AwaitedField),
    ]
    contenders = dict(zip("atnqx", (ALL, TASKS, EVENTS, QUEUES, TASKS), strict=True))
    found: list[tuple[Entry, Entry]] = []
    for number, (letters, kind) in enumerate(kinds):
        wanted = [case for case in options.cases if case in letters]
        if not wanted:
            continue
        ours = [each for each in list(contenders.values())[number] if each.name == OURS]
        with ExitStack() as both:
            fields = []
            for name, tree in (("before", other), ("now", HERE.parent)):
                host = f"{name}-{number}"
                node.ctl("add_vhost", host)
                node.ctl("set_permissions", "-p", host, "guest", ".*", ".*", ".*")
                (logs / host).mkdir()
                field = kind(f"{node.url}{host}", logs / host, both, tree)
                field.enter(ours)
                fields.append(field)
            for case in wanted:
                pair = [_entries(case, options.seconds) for _ in fields]
                rounds = min(options.rounds, 3) if case in "lmp" else options.rounds
                found += play(fields, pair, rounds)
    return found


def play(fields: Sequence[Field], pair: Sequence[list[Entry]], rounds: int) -> list[tuple[Entry, Entry]]:
    """Measure both in turns; each round begins with the other one."""
    for field, entries in zip(fields, pair, strict=True):
        if entries and entries[0].case not in "lmp":
            field.play(entries, 0, warm=True)
    for number in range(rounds):
        for index in range(len(pair[0])):
            for side in (0, 1) if (number + index) % 2 else (1, 0):
                fields[side].measure(pair[side][index], pair[side])
        say(f"  ({pair[0][0].case}) round {number + 1} of {rounds} done")
    return list(zip(*pair, strict=True))


def _entries(case: str, seconds: float) -> list[Entry]:
    ours = [each for each in ALL if each.name == OURS]
    if case == "t":
        request = {
            "case": "enqueue_awaited", "size": cases.SIZE, "seconds": seconds, "in_flight": _TOGETHER,
            "results": False, "queue_type": "classic", "queue": OUR_QUEUES["classic"],
        }  # fmt: skip
        return [Entry("t", OURS, request)]
    if case in cases.OF_CALLS:
        return cases.entries(case, ours, seconds=min(seconds, 0.6) if case == "e" else seconds, capacity=0.0)
    if case in cases.WITH_TASKS:
        return task_cases.entries(case, [OURS], seconds=seconds, quick=False)
    if case in cases.WITH_EVENTS:
        return event_cases.entries(case, [OURS], seconds=seconds, quick=False)
    return queue_cases.entries(case, [OURS], seconds=seconds, quick=False)


def _revision(tree: Path) -> str:
    words = ["git", "-C", str(tree), "log", "-1", "--format=%h %s"]
    return subprocess.run(words, check=False, capture_output=True, text=True).stdout.strip() or tree.name


if __name__ == "__main__":
    main()
