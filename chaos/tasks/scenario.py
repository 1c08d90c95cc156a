"""One run: a stage, its tasks, its faults, and then the table."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from chaos.faults import COMES_BACK, TASKS_CLUSTER, TASKS_SINGLE, Injection, chosen
from chaos.scenario import Scenario
from chaos.stage import SERVERS
from chaos.tasks import table
from chaos.tasks.history import TaskHistory
from chaos.tasks.stage import AGAIN, TaskStage
from chaos.tasks.verdict import failures

SCENARIOS = {each.name: each for each in (Scenario("single", 1, TASKS_SINGLE), Scenario("cluster", 3, TASKS_CLUSTER))}


def run(
    scenario: Scenario,
    *,
    tasks: int,
    seed: int,
    seconds: float,
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

    def tell(line: str) -> None:
        say(f"   {time.monotonic() - started:6.1f} s  {line}")

    with TaskStage(nodes=scenario.nodes, seed=seed, folder=folder) as stage:
        say(f"== {scenario.name}, seed {seed}, RabbitMQ {stage.version} × {scenario.nodes}; records in {folder}")
        say(f"   When a queue refuses a task whose delay is over, RabbitMQ sends it again after {AGAIN} s, not 180.")
        stage.begin()
        stage.produce(tasks, seconds)
        Injection(stage, faults, seed).run(seconds, tell, more=stage.producing)
        troubles = [f"a producer ended with {client.wait()}" for client in stage.clients if client.wait()]
        over = time.monotonic()
        settled = stage.settle()
        tell(f"all settled: {settled}, after {time.monotonic() - over:.0f} s")
        if not settled:
            troubles.append(f"left in the queues: {stage.left() or 'nothing'}")
        if not stage.whole(COMES_BACK):
            troubles.append(f"at the end {stage.consumers()} of {SERVERS} workers consume")
        stage.finish()
        troubles += [f"the dead letters of {queue} can't be read" for queue in stage.read_dead()]
        history = TaskHistory.read(folder)
        troubles += stage.fallen
        troubles += [
            f"worker with process id {pid} ended with {code}"
            for pid, code in [*stage.died, *((pid, code) for pid, code in stage.ended if code)]
            if code != -signal.SIGKILL or pid not in history.deaths
        ]
    failed = failures(history)
    for line in table.lines(history):
        say(line)
    say(f"   {'workers that tasks killed':56} {len(history.deaths):7}")
    for line in table.details(history, failed):
        say(line)
    return [*(f"{name}: {len(found)}" for name, found in failed.items()), *troubles]
