"""Reads one input after another with a target, and holds each to its time and its memory.

The notes are in memory that a parent process can share: how many inputs were read, and the input of this moment. So
the parent knows the input that ends this process: by its limit of processor time, by a crash of C code, or by a wait
that has no end.
"""

from __future__ import annotations

import contextlib
import faulthandler
import mmap
import resource
import signal
import struct
import sys
import traceback
from pathlib import Path

from fuzz import corpus
from fuzz.draw import Draw
from fuzz.targets import TARGETS

#: Seconds of processor time that one input may take, and MiB of memory by which it may raise the peak.
SLOWEST, MOST_GROWTH = 2.0, 64
#: Seconds of processor time after which the kernel ends a process that is stuck in one input; every so many inputs the
#: limit is moved. MiB of address space that a process may use beside what it has at its start.
STUCK, BATCH, MOST_SPACE = 30, 1024, 600
#: A target with so many failures is not read further.
MOST_FAILURES = 10
#: Bytes of an input at most: a longer one is cut.
LONGEST = 1024
#: Inputs; those past the first check; failures; seconds of the slowest input; KiB of the peak; bytes of the input.
_NOTES = struct.Struct("<QQQdQI")
SIZE = _NOTES.size + LONGEST


class Failed(Exception):
    """An input failed: it is in the corpus now."""


class Notes:
    """The figures of one process."""

    def __init__(self, memory: mmap.mmap | bytearray | None = None) -> None:
        self._memory = bytearray(SIZE) if memory is None else memory
        self.inputs, self.past, self.failures, self.slowest, self.peak, self._size = _NOTES.unpack_from(self._memory)

    @property
    def current(self) -> bytes:
        """The input that is being read, or was read last."""
        return bytes(self._memory[_NOTES.size : _NOTES.size + self._size])

    def begin(self, data: bytes) -> None:
        """Note the input that is read next."""
        self._size = len(data)
        self._memory[_NOTES.size : _NOTES.size + self._size] = data
        self.write()

    def write(self) -> None:
        """Write the figures, for the parent."""
        _NOTES.pack_into(self._memory, 0, self.inputs, self.past, self.failures, self.slowest, self.peak, self._size)


class Reader:
    """Reads inputs with one target.

    Args:
        name: The target.
        notes: Where it counts.
        process: The process, if it is there for this alone: a failure is printed and kept then, one for each place that
            fails, and it reads on. Without one, the first failure is raised.
    """

    def __init__(self, name: str, notes: Notes, process: LimitedProcess | None = None) -> None:
        self.name, self._read, self.notes, self._process = name, TARGETS[name], notes, process
        self._places: set[str] = set()

    @staticmethod
    def _usage() -> tuple[float, int]:
        """Return the seconds of processor time, and the peak in KiB."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime, used.ru_maxrss

    def read(self, draw: Draw) -> bool:
        """Read one input; return whether it got past the first check.

        Raises:
            Failed: It raised what it may not, or took too much; and the process is another's.
        """
        notes = self.notes
        notes.begin(draw.data[:LONGEST])
        past, error, (before, peak) = False, None, self._usage()
        try:
            past = self._read(draw)
        except draw.PASSES:
            raise
        except BaseException as raised:
            error = raised
        seconds, notes.peak = self._usage()
        took, grew = seconds - before, (notes.peak - peak) >> 10
        notes.inputs += 1
        notes.past += past
        notes.slowest = max(notes.slowest, took)
        if error is None and took > SLOWEST:
            error = Failed(f"it took {took:.1f} s")
        if error is None and grew > MOST_GROWTH:
            error = Failed(f"the peak of memory grew by {grew} MiB")
        if error is not None:
            self._fail(draw.data, error)
        return past

    def _fail(self, data: bytes, error: BaseException) -> None:
        self.notes.failures += 1
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{type(error).__name__} {frames[-1].filename}:{frames[-1].lineno}" if frames else str(error)
        if place not in self._places:
            self._places.add(place)
            why = f"{type(error).__name__}: {error}"
            said = f"{self.name}: {why}; the input is kept in {corpus.keep(self.name, data, why)}"
            if self._process is None:
                raise Failed(said) from error
            traceback.print_exception(error, limit=-8)
            sys.stderr.write(f"FAILED {said}\n")

    @property
    def over(self) -> bool:
        """True once there were too many failures."""
        return bool(self.notes.failures >= MOST_FAILURES)

    def limit(self) -> None:
        """Give this process some more seconds of processor time, if that is bounded at all."""
        if self._process is not None:
            self._process.move_limit()


class LimitedProcess:
    """This process, with a bound of its memory and of its processor time, whose excess shows where it is."""

    def __init__(self) -> None:
        faulthandler.enable()
        faulthandler.register(signal.SIGXCPU, chain=True)
        with contextlib.suppress(OSError, ValueError):
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            most = pages * resource.getpagesize() + (MOST_SPACE << 20)
            resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
        self.move_limit()

    @staticmethod
    def move_limit() -> None:
        """Give it some more seconds of processor time."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + STUCK, resource.RLIM_INFINITY))
