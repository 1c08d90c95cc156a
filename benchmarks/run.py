"""``python -m benchmarks``: how fast amqp_rpc is, beside its peers and a client and server in C, in one run.

It starts a private RabbitMQ and every contender's server and client, each in an environment of its own, and measures
them in turns. Only ratios within a run mean something: what else the machine does hits all alike.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import pika

import amqp_rpc
from amqp_rpc.broker.node import Node
from benchmarks import cases, event_cases, idle, queue_cases, report, tables, task_cases
from benchmarks.contenders import ALL, OURS, Contender, ours
from benchmarks.contenders.events import EVENTS
from benchmarks.contenders.queues import QUEUES
from benchmarks.contenders.tasks import TASKS
from benchmarks.environments import HERE
from benchmarks.field import Field, say
from benchmarks.measuring import Entry
from benchmarks.processes import BrokenError
from benchmarks.targets import Results, judge
from benchmarks.task_field import TaskField
from tests.nodes import COMMAND

#: Seconds of the open loop: long enough to see who falls behind.
_OPEN_SECONDS = 2.0
_IDLE_SECONDS = 10.0
#: Seconds of each size of the echo, where few calls fit in.
_SIZE_SECONDS = 0.6
_STARTS = 5
#: The assumed calls per second of ours if they were not measured.
_GUESS = 10_000.0
_NAMES = list(dict.fromkeys(contender.name for contender in [*ALL, *TASKS, *EVENTS, *QUEUES]))


def main() -> None:
    options = parse()
    # A plain kill ends all that runs here too, as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began = time.monotonic()
    try:
        with ExitStack() as stack:
            results, facts = measure(options, stack)
    except KeyboardInterrupt:
        sys.exit(130)
    targets = judge(results)
    facts["minutes"] = round((time.monotonic() - began) / 60, 1)
    facts["load at the end"] = round(os.getloadavg()[0], 1)
    print(report.headline(facts))
    tables.show(results)
    tables.show_targets(targets)
    whole = options.only is None and set(options.cases) == set(cases.TITLES) and not options.quick
    report.save(HERE / "results" / ("" if whole else "partial"), results, targets, facts)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=(__doc__ or "").split("\n")[0]
        + " AMQP_RPC_TEST_RABBITMQ is a command put before RabbitMQ's programs, to run on another version.",
        epilog="cases: " + "; ".join(f"{letter} {title}" for letter, title in cases.TITLES.items()),
    )
    parser.add_argument("--rounds", type=int, help="how often each is measured (5)")
    parser.add_argument("--seconds", type=float, help="how long each time (1.2)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"contenders: {' '.join(_NAMES)}")
    parser.add_argument("--cases", default="".join(cases.TITLES), help="letters, such as a,b,f (all)")
    parser.add_argument("--quick", action="store_true", help="2 rounds of 0.3 s: does it all work?")
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.seconds = options.seconds or (0.3 if options.quick else 1.2)
    options.cases = options.cases.replace(",", "")
    if options.rounds < 1 or not 0 < options.seconds <= 60:
        parser.error("--rounds must be at least 1, and --seconds above 0 and at most 60")
    if unknown := set(options.cases) - set(cases.TITLES):
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    if unknown := set(options.only or ()) - set(_NAMES):
        parser.error(f"no such contender: {', '.join(sorted(unknown))}")
    return options


def measure(options: argparse.Namespace, stack: ExitStack) -> tuple[Results, report.Facts]:
    logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="amqp_rpc-bench-")))
    say("starting a private RabbitMQ …")
    node = stack.enter_context(Node(command=COMMAND))
    facts: report.Facts = {
        "amqp_rpc": amqp_rpc.__version__,
        "pika": pika.__version__,
        "Python": platform.python_version(),
        "RabbitMQ": node.version,
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "load at the start": round(os.getloadavg()[0], 1),
    }
    field, task_field = Field(node.url, logs, stack), TaskField(node.url, logs, stack)
    event_field = event_cases.EventField(node.url, logs, stack)
    queue_field = queue_cases.QueueField(node.url, logs, stack)
    say("starting the contenders …")
    facts["left out"] = {}
    for letters, its, contenders in (
        (cases.OF_CALLS, field, ALL),
        (cases.WITH_TASKS, task_field, TASKS),
        (cases.WITH_EVENTS, event_field, EVENTS),
        (cases.WITH_QUEUES, queue_field, QUEUES),
    ):
        if set(options.cases) & set(letters):
            its.enter(chosen(contenders, options))
            facts["left out"] |= its.missing
    found = None
    if "i" in options.cases:  # first: the others fill memory
        found = watch(field, node.url, logs, seconds=2.0 if options.quick else _IDLE_SECONDS)
    entries: list[Entry] = []
    for group in cases.GROUPS:
        wanted = [case for case in group if case in options.cases]
        if wanted:
            entries += play(wanted, field, options, entries)
    if found is not None:
        found.later.update(idle.megabytes(field.servers))
    for its_field, these, warm in ((task_field, task_cases, "jk"), (event_field, event_cases, "no")):
        for group in these.GROUPS:
            entries += play_group(
                [case for case in group if case in options.cases], its_field, options,
                entries_of=these.entries, rounds=these.ROUNDS[group], warm=group == warm,
            )  # fmt: skip
    for case in (each for each in cases.WITH_QUEUES if each in options.cases):
        entries += play_group(
            [case], queue_field, options, entries_of=queue_cases.entries, rounds=options.rounds, warm=case != "r"
        )
    return Results(entries, found), facts


def chosen(contenders: Sequence[Contender], options: argparse.Namespace) -> list[Contender]:
    """Return those that are to be measured."""
    return [contender for contender in contenders if options.only is None or contender.name in options.only]


def play(wanted: Sequence[str], field: Field, options: argparse.Namespace, before: Sequence[Entry]) -> list[Entry]:
    """Measure cases that share their rounds."""
    say(f"({', '.join(wanted)}) {'; '.join(cases.TITLES[case] for case in wanted)} …")
    seconds, capacity = options.seconds, 0.0
    if wanted == ["f"]:
        seconds, capacity = (1.0 if options.quick else _OPEN_SECONDS), our_capacity(field, before)
    elif wanted == ["e"]:
        seconds = min(seconds, _SIZE_SECONDS)
    entries = [
        entry
        for case in wanted
        for entry in cases.entries(case, field.contenders.values(), seconds=seconds, capacity=capacity)
    ]
    with ExitStack() as stack:
        if wanted == ["g"] and entries:
            try:
                serve_naps(field, stack)
            except BrokenError as error:
                say(f"  (g) {error}")
                return []
        field.play(entries, options.rounds, warm=wanted != ["f"])
    return entries


def play_group(
    wanted: Sequence[str],
    field: TaskField,
    options: argparse.Namespace,
    *,
    entries_of: Callable[..., list[Entry]],
    rounds: int,
    warm: bool,
) -> list[Entry]:
    """Measure cases with tasks, events or queues that share their rounds.

    Args:
        wanted: The cases.
        field: Who is measured.
        options: The command's.
        entries_of: Returns what is measured in a case.
        rounds: At most; each may start processes.
        warm: Whether each is tried once before. Workers are new each time, and are measured from their first message.
    """
    entries = [
        entry
        for case in wanted
        for entry in entries_of(case, list(field.contenders), seconds=options.seconds, quick=options.quick)
    ]
    if entries:
        say(f"({', '.join(wanted)}) {'; '.join(cases.TITLES[case] for case in wanted)} …")
        field.play(entries, min(options.rounds, rounds), warm=warm)
    return entries


def our_capacity(field: Field, before: Sequence[Entry]) -> float:
    """Return the calls per second that ours answers: as measured in (b), else measured now."""
    measured = [entry.median for entry in before if (entry.case, entry.contender) == ("b", OURS)]
    if not measured and OURS in field.contenders:
        asked = cases.entries("b", [field.contenders[OURS]], seconds=1.0, capacity=0.0)
        field.play(asked, 3, warm=True)
        measured = [asked[0].median]
    return measured[0] if measured and measured[0] else _GUESS


def serve_naps(field: Field, stack: ExitStack) -> None:
    """Start all servers of case (g), each process with one handler thread: it is the processes that are counted."""
    for count in cases.PROCESSES:
        service = cases.naps(count)
        server: Contender = ours(service, service, "--threads=1", f"--processes={count}")
        stack.callback(field.serve(server, consumers=count).end)


def watch(field: Field, url: str, logs: Path, *, seconds: float) -> idle.Idle:
    """Measure case (i)."""
    say(f"(i) {cases.TITLES['i']} …")
    field.connect()
    servers = idle.costs(field.servers, seconds)
    clients = idle.costs(field.clients, seconds)
    ready: list[float] = []
    try:
        ready = idle.ready_seconds(_STARTS, url, logs)
    except BrokenError as error:
        say(f"  (i) {error}")
    return idle.Idle(servers, clients, {}, idle.import_seconds(_STARTS), ready)
