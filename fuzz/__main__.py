"""``python -m fuzz``: read odd inputs; exit with 1 if one raises an error that it may not, or takes too much.

Each target is read in a process of its own for each engine, so that its memory is known, and an input that ends a
process ends no more than that.
"""

from __future__ import annotations

import argparse
import importlib.util
import mmap
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

from fuzz import corpus
from fuzz.engines import ENGINES
from fuzz.reader import SIZE, LimitedProcess, Notes, Reader
from fuzz.targets import SHARES, TARGETS, silence

#: One input in so many is made by hypothesis, and by atheris: an input of theirs costs more.
_PARTS = {"hypothesis": 500, "atheris": 50}
#: Seconds without a new input, on a machine that may be busy, after which a process waits for what never comes; and
#: seconds between two lines that tell how far it is.
_SILENT, _EVERY = 900.0, 60.0


@dataclass
class Job:
    """A target that is read with one engine."""

    name: str
    engine: str
    most: int
    seconds: float
    seed: int
    memory: mmap.mmap = field(default_factory=lambda: mmap.mmap(-1, SIZE))
    process: BaseProcess | None = None
    began: float = 0.0
    took: float = 0.0
    #: The inputs that it had read when that number last changed, and when that was.
    seen: tuple[int, float] = (0, 0.0)
    broken: str = ""

    @property
    def notes(self) -> Notes:
        """The notes of its process."""
        return Notes(self.memory)

    def start(self) -> None:
        """Start its process."""
        self.began = time.monotonic()
        self.seen = 0, self.began
        self.process = multiprocessing.get_context("fork").Process(target=self._run)
        self.process.start()

    def _run(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        reader = Reader(self.name, Notes(self.memory), LimitedProcess())
        ENGINES[self.engine](reader, most=self.most, seconds=self.seconds, seed=self.seed)
        reader.notes.write()

    def look(self) -> None:
        """End a process that reads nothing for too long."""
        assert self.process is not None
        count, now = self.notes.inputs, time.monotonic()
        if count != self.seen[0]:
            self.seen = count, now
        elif now - self.seen[1] > _SILENT:
            self.broken = f"read nothing for {_SILENT:.0f} s"
            self.process.kill()

    def end(self) -> None:
        """Note how its process has ended."""
        assert self.process is not None
        self.process.join()
        self.took = time.monotonic() - self.began
        code, notes = self.process.exitcode or 0, self.notes
        if code:
            how = self.broken or (signal.Signals(-code).name if code < 0 else f"exit code {code}")
            self.broken = f"{self.name}: its process ended: {how}"
            if notes.current:
                self.broken += f"; the input is kept in {corpus.keep(self.name, notes.current, how)}"

    def line(self) -> str:
        """Return its figures in one line."""
        notes = self.notes
        return (
            f"{self.name:<11} {self.engine:<10} {notes.inputs:>10,} inputs {self.took:>7.0f} s "
            f"{notes.inputs / max(self.took, 0.001):>7.0f} a second  past the first check "
            f"{100 * notes.past / max(notes.inputs, 1):>3.0f} %  slowest {notes.slowest * 1000:>7.1f} ms  "
            f"peak {notes.peak >> 10:>4} MiB  {notes.failures} failed"
        )


def jobs(names: list[str], engines: list[str], *, most: int, seconds: float, seed: int) -> list[Job]:
    """Return the jobs of each engine, one for each target with its share of the inputs."""
    shares = {name: SHARES[TARGETS[name]] for name in names}
    whole = sum(shares.values())
    found: list[Job] = []
    left = most
    for engine in reversed(engines):
        # The last of the engines is the first of the list, and has all that is left.
        part = left if engine == engines[0] else most // _PARTS[engine]
        left -= part
        each = {name: part * share // whole for name, share in shares.items()}
        each[names[0]] += part - sum(each.values())
        found += [Job(name, engine, count, seconds / len(names), seed) for name, count in each.items() if count]
    return found


def run(waiting: list[Job], processes: int) -> None:
    """Run jobs, so many at a time, and print a line for each that has ended."""
    running: list[Job] = []
    said, everything = time.monotonic(), list(waiting)
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                job = waiting.pop(0)
                job.start()
                running.append(job)
            multiprocessing.connection.wait([job.process.sentinel for job in running if job.process], timeout=1.0)
            for job in list(running):
                assert job.process is not None
                job.look()
                if not job.process.is_alive():
                    running.remove(job)
                    job.end()
                    _say(job.line())
                    if job.broken:
                        _say(f"FAILED {job.broken}")
            if time.monotonic() - said > _EVERY:
                said = time.monotonic()
                _say(f"… {sum(job.notes.inputs for job in everything):,} inputs")
    finally:
        for job in running:
            if job.process is not None:
                job.process.kill()


def main() -> int:
    """Read the options, run the targets, and print a line for each."""
    parser = argparse.ArgumentParser(
        prog="python -m fuzz",
        description="Read odd inputs. One that fails is kept in fuzz/corpus, for the tests.",
    )
    parser.add_argument("--target", choices=[*TARGETS, "all"], default="all")
    parser.add_argument("--inputs", type=int, default=10_000_000, help="in all (10 000 000)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="for each engine, in all (no limit)")
    parser.add_argument("--seed", type=int, default=1, help="the same one makes the same random inputs (1)")
    parser.add_argument(
        "--engine", choices=[*ENGINES, "all"], default="all",
        help="all: hypothesis makes one input in 500, atheris one in 50 if it is installed (pip install atheris), "
        "and the others are random",
    )  # fmt: skip
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="at a time (one for each processor)")
    parser.add_argument("--found", type=Path, help="a folder for the inputs that atheris finds: see fuzz.reach --more")
    parser.add_argument("--report", type=Path, help="a file for the lines that are printed at the end")
    given = parser.parse_args()
    names = [*TARGETS] if given.target == "all" else [given.target]
    engines = [*ENGINES] if given.engine == "all" else [given.engine]
    if importlib.util.find_spec("atheris") is None:
        if given.engine == "atheris":
            parser.error("atheris is not installed: pip install atheris")
        engines = [each for each in engines if each != "atheris"]
    silence()
    began = time.monotonic()
    everything = jobs(names, engines, most=given.inputs, seconds=given.seconds / len(engines), seed=given.seed)
    with tempfile.TemporaryDirectory() as passing:
        tempfile.tempdir = str(given.found or passing)
        run(list(everything), given.processes)
    failed = sum(job.notes.failures + bool(job.broken) for job in everything)
    slowest = max(everything, key=lambda job: job.notes.slowest)
    total = (
        f"in all {sum(job.notes.inputs for job in everything):,} inputs in {time.monotonic() - began:.0f} s, seed "
        f"{given.seed}; the slowest {slowest.notes.slowest * 1000:.1f} ms ({slowest.name}); the highest peak "
        f"{max(job.notes.peak for job in everything) >> 10} MiB; {failed} failed"
    )
    _say(total)
    if given.report is not None:
        given.report.write_text("\n".join([*(job.line() for job in everything), total, ""]))
    return 1 if failed else 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
