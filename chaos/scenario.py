"""One run: a stage, its load, its faults, and then the table."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from chaos import table
from chaos.faults import CLUSTER, SINGLE, Fault, Injection, chosen
from chaos.history import History
from chaos.stage import SERVERS, Stage
from chaos.verdict import CHECKS, leaks


@dataclass(frozen=True)
class Scenario:
    """A kind of run."""

    name: str
    nodes: int
    faults: tuple[Fault, ...]


SCENARIOS = {each.name: each for each in (Scenario("single", 1, SINGLE), Scenario("cluster", 3, CLUSTER))}


def run(
    scenario: Scenario,
    *,
    seed: int,
    seconds: float,
    pause: float,
    only: Sequence[str],
    folder: Path,
    say: Callable[[str], object],
) -> list[str]:
    """Run a scenario and print its figures; return the figures that must be zero and are not."""
    faults = chosen(scenario.faults, only)
    if not faults:
        return []
    folder.mkdir(parents=True)
    started = time.monotonic()
    with Stage(nodes=scenario.nodes, seed=seed, folder=folder) as stage:
        say(f"== {scenario.name}, seed {seed}, RabbitMQ {stage.version} × {scenario.nodes}; records in {folder}")
        stage.start_clients()
        injection = Injection(stage, faults, seed, pause=pause)
        injection.run(seconds, lambda line: say(f"   {time.monotonic() - started:6.1f} s  {line}"))
        troubles = [] if stage.whole(1) else [f"at the end {stage.consumers()} of {SERVERS} servers consume"]
        stage.stop_clients()
        stage.stop_servers()
        troubles += [f"a server ended by itself: {each}" for each in stage.fallen]
        troubles += [f"a drain ended with code {code}" for code in stage.drained if code]
    history = History.read(folder)
    troubles += [f"{fault.name}: not all servers consumed again" for fault in history.faults if not fault.back]
    troubles += leaks(history)
    failed = {name: calls for name, check in CHECKS.items() if (calls := check(history))}
    for line in table.lines(history):
        say(line)
    for line in table.details(history, failed):
        say(line)
    return [*(f"{name}: {len(calls)}" for name, calls in failed.items()), *troubles]
