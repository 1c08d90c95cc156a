"""``python -m chaos``: run the scenarios with a seed; exit with 1 if a figure that must be zero is not."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from chaos.faults import PAUSE, chosen
from chaos.scenario import SCENARIOS, run
from tests.nodes import missing

#: The default seconds of faults of each scenario.
SECONDS = {"single": 210.0, "cluster": 270.0}


def main() -> int:
    """Read the options and run."""
    parser = argparse.ArgumentParser(
        prog="python -m chaos",
        description="Calls under faults of servers, broker and network. AMQP_RPC_TEST_RABBITMQ is a command put before "
        "RabbitMQ's programs, to run on another version.",
    )
    parser.add_argument("--seed", type=int, default=1, help="for the order and length of faults, and the load (1)")
    parser.add_argument("--seconds", type=float, help="of faults, in each scenario (single 210, cluster 270)")
    parser.add_argument("--pause", type=float, default=PAUSE, help=f"seconds without a fault after each ({PAUSE:g})")
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
        seconds = given.seconds or SECONDS[name]
        found = run(
            SCENARIOS[name], seed=given.seed, seconds=seconds, pause=given.pause, only=given.only,
            folder=top / name, say=_say,
        )  # fmt: skip
        troubles += [f"{name}: {trouble}" for trouble in found]
    for trouble in troubles:
        _say(f"NOT ZERO: {trouble}")
    if troubles:
        _say(f"records and logs: {top}; the same again: python -m chaos --seed {given.seed}")
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
