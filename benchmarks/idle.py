"""Case (i): the cost of idle servers and clients, and the time that ours takes to import and to start. Linux only."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contenders import serve
from benchmarks.environments import HERE
from benchmarks.processes import BrokenError, Process

_START = 20.0
_IMPORT = "import time; began = time.perf_counter(); import amqp_rpc; print(time.perf_counter() - began)"


@dataclass(frozen=True)
class Cost:
    """The cost of an idle process.

    Attributes:
        cpu: Percent of a core.
        memory: Megabytes of resident memory.
    """

    cpu: float
    memory: float


@dataclass(frozen=True)
class Idle:
    """The figures of case (i).

    Attributes:
        servers: By contender, before the other cases.
        clients: The same; each has made a few calls.
        later: Megabytes of each server after all cases, when it had bodies of 8 MB.
        imports: Seconds that ``import amqp_rpc`` took, each time.
        ready: Seconds from the start of ``amqp-rpc serve`` until it was ready, each time.
    """

    servers: Mapping[str, Cost]
    clients: Mapping[str, Cost]
    later: dict[str, float]
    imports: Sequence[float]
    ready: Sequence[float]


def costs(processes: Mapping[str, Process], seconds: float) -> dict[str, Cost]:
    """Watch idle processes for so long."""
    began, before = time.monotonic(), {name: _cpu(process.pid) for name, process in processes.items()}
    time.sleep(seconds)
    took = time.monotonic() - began
    return {
        name: Cost((_cpu(process.pid) - before[name]) / took * 100, _memory(process.pid))
        for name, process in processes.items()
        if process.runs
    }


def megabytes(processes: Mapping[str, Process]) -> dict[str, float]:
    """Return the resident memory of processes."""
    return {name: _memory(process.pid) for name, process in processes.items() if process.runs}


def import_seconds(times: int) -> list[float]:
    """Return how long ``import amqp_rpc`` takes in new processes, after one that warms the caches."""
    words = [sys.executable, "-c", _IMPORT]
    # Compiled as an installed package is, also where this environment keeps Python from writing that down.
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as folder:
        variables["PYTHONPYCACHEPREFIX"] = folder
        ran = [
            subprocess.run(
                words, cwd=HERE.parent, env=variables, capture_output=True, text=True, check=True, timeout=60
            ).stdout
            for _ in range(times + 1)
        ]
    return [float(text) for text in ran[1:]]


def ready_seconds(times: int, url: str, logs: Path) -> list[float]:
    """Return how long ``amqp-rpc serve`` takes from its start to the line that says it is ready."""
    return [_ready(url, logs / f"ready-{number}.log") for number in range(times)]


def _ready(url: str, log: Path) -> float:
    variables = {"AMQP_URL": url, "AMQP_RPC_URL": url, "BENCH_NAME": "bench-ready"}
    with ExitStack() as stack:
        began = time.monotonic()
        server = Process([sys.executable, *serve()], log, variables)
        stack.callback(server.end)
        while "Ready." not in log.read_text():
            if not server.runs or time.monotonic() - began > _START:
                raise BrokenError(f"amqp-rpc serve did not get ready: {server.last_words}")
            time.sleep(0.002)
        return time.monotonic() - began


def _cpu(pid: int) -> float:
    """Seconds of CPU of all threads; ``/proc/…/stat`` counts in hundredths, which is too coarse for what is idle."""
    total = 0
    for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        total += int(thread.read_text().split()[0])
    return total / 1e9


def _memory(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
