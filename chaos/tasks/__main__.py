"""``python -m chaos.tasks``: tasks and events under faults; exit with 1 if a figure that must be zero is not."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from chaos.faults import chosen
from chaos.tasks.scenario import SCENARIOS, run
from tests.nodes import missing

#: Each scenario's share of the tasks, and its default seconds.
SHARES = {"single": 0.6, "cluster": 0.4}
SECONDS = {"single": 240.0, "cluster": 330.0}


def main() -> int:
    """Read the options and run."""
    parser = argparse.ArgumentParser(
        prog="python -m chaos.tasks",
        description="Tasks and events under faults of workers, broker and network. AMQP_RPC_TEST_RABBITMQ is a command "
        "put before RabbitMQ's programs, to run on another version.",
    )
    parser.add_argument(
        "--tasks", type=int, default=100_000, help="in all scenarios together (100 000); and a tenth as many events"
    )
    parser.add_argument("--seed", type=int, default=1, help="for the order and length of faults, and the tasks (1)")
    parser.add_argument(
        "--seconds",
        type=float,
        help="over which each scenario's tasks are spread (single 240, cluster 330); faults go on until the last task",
    )
    parser.add_argument("--scenario", choices=[*SCENARIOS, "all"], default="all")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="WORDS",
        help="inject only faults whose names contain these words; may be given several times",
    )
    given = parser.parse_args()
    faults = [fault for scenario in SCENARIOS.values() for fault in scenario.faults]
    for words in given.only:
        if not chosen(faults, [words]):
            names = ", ".join(dict.fromkeys(fault.name for fault in faults))
            parser.error(f"no fault's name contains {words!r}; there are: {names}")
    if (reason := missing()) is not None:
        sys.exit(reason)
    # SIGTERM ends it as Ctrl-C does, with every process that it started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    top = Path(tempfile.mkdtemp(prefix="amqp-rpc-chaos-"))
    troubles: list[str] = []
    for name in SCENARIOS if given.scenario == "all" else [given.scenario]:
        found = run(
            SCENARIOS[name],
            tasks=int(given.tasks * SHARES[name]) if given.scenario == "all" else given.tasks,
            seed=given.seed,
            seconds=given.seconds or SECONDS[name],
            only=given.only,
            folder=top / name,
            say=_say,
        )
        troubles += [f"{name}: {trouble}" for trouble in found]
    for trouble in troubles:
        _say(f"NOT ZERO: {trouble}")
    if troubles:
        _say(f"records and logs: {top}; the same again: python -m chaos.tasks --seed {given.seed}")
        return 1
    shutil.rmtree(top)
    _say("all zeros")
    return 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
