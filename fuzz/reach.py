"""``python -m fuzz.reach``: which lines of the package each target reaches, and a corpus that reaches all of them.

With ``--keep``, the corpus is written anew: an input stays if it takes a step, from one line to another, that no
shorter one takes.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import amqp_rpc
from fuzz import corpus
from fuzz.draw import Draw
from fuzz.engines import random_inputs
from fuzz.targets import TARGETS, silence

_PACKAGE = str(Path(amqp_rpc.__file__).parent) + "/"
#: The modules that a target is for: the share of their lines is printed. Others use more of them.
_READS: dict[str, tuple[str, ...]] = {
    "decode": ("message/codec.py",),
    "call": ("server/calls.py", "message/envelope.py"),
    "task": ("server/tasks.py", "server/invoke.py"),
    "event": ("server/tasks.py", "message/envelope.py"),
    "reply": ("client/reply.py", "message/failures.py"),
    "letter": ("message/dead_letter.py", "message/headers.py"),
    "printed": ("message/envelope.py", "message/text.py"),
    "record": ("results/record.py",),
    "token": ("server/scheduler.py",),
    "bindings": ("message/exchanges.py",),
    "item": ("queues/items.py",),
    "frames": ("amqp/frames.py", "amqp/stream.py"),
    "broker": ("amqp/connection.py", "amqp/channel.py", "amqp/frames.py"),
    "properties": ("amqp/frames.py",),
    "words": ("cli/options.py", "message/settings.py"),
    "command": ("cli/options.py", "cli/exits.py"),
}
#: A file, a line that was left, and the line that came next.
Step = tuple[str, int, int]


def steps(name: str, data: bytes) -> frozenset[Step]:
    """Return the steps from line to line in the package that an input takes."""
    found: set[Step] = set()

    def enter(frame: FrameType, _event: str, _argument: Any) -> Callable[..., Any] | None:
        file = frame.f_code.co_filename
        if not file.startswith(_PACKAGE):
            return None
        last = -frame.f_code.co_firstlineno

        def line(frame: FrameType, event: str, _argument: Any) -> Callable[..., Any]:
            nonlocal last
            if event == "line":
                found.add((file, last, frame.f_lineno))
                last = frame.f_lineno
            return line

        return line

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        TARGETS[name](Draw(data))
    finally:
        sys.settrace(before)
    return frozenset(found)


def chosen(name: str, inputs: Iterable[bytes]) -> dict[bytes, frozenset[Step]]:
    """Return a few inputs that take each step that any of them takes, the short ones first."""
    taken: dict[bytes, frozenset[Step]] = {}
    known: set[Step] = set()
    for data in inputs:
        found = steps(name, data)
        if not found <= known:
            known |= found
            taken[data] = found
    # A few of them take all of these steps: the shortest ones first, each for its new steps.
    known.clear()
    few: dict[bytes, frozenset[Step]] = {}
    for data in sorted(taken, key=len):
        new = taken[data] - known
        if new:
            short = _shortened(name, data, new)
            few[short] = steps(name, short)
            known |= few[short]
    return few


def _shortened(name: str, data: bytes, new: frozenset[Step]) -> bytes:
    """Return the shortest beginning of an input that takes these steps too."""
    least, most = 0, len(data)
    while least < most:
        middle = (least + most) // 2
        if new <= steps(name, data[:middle]):
            most = middle
        else:
            least = middle + 1
    return data[:most]


def _lines(path: str) -> set[int]:
    """Return the lines in the functions of a file."""
    found: set[int] = set()
    waiting = [compile(Path(_PACKAGE, path).read_text(), path, "exec")]
    top = waiting[0]
    while waiting:
        code = waiting.pop()
        waiting += [each for each in code.co_consts if isinstance(each, CodeType)]
        # Lines of classes and modules are reached by an import.
        if code is not top and code.co_flags & 1:
            found |= {line for _, _, line in code.co_lines() if line and line != code.co_firstlineno}
    return found


def main() -> None:
    """Print the lines that each target reaches; write the corpus if asked."""
    parser = argparse.ArgumentParser(prog="python -m fuzz.reach", description=__doc__)
    parser.add_argument("--target", choices=[*TARGETS, "all"], default="all")
    parser.add_argument("--inputs", type=int, default=2000, help="of each target (2000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--more", type=Path, help="a folder of inputs from python -m fuzz --engine atheris --found")
    parser.add_argument("--keep", action="store_true", help="write the corpus anew")
    parser.add_argument("--missing", action="store_true", help="print the lines that are not reached")
    given = parser.parse_args()
    silence()
    everything: set[tuple[str, int]] = set()
    for name in TARGETS if given.target == "all" else [given.target]:
        more = [path.read_bytes() for path in sorted(given.more.glob(f"{name}.*/*"))] if given.more else []
        few = chosen(name, [*more, *itertools.islice(random_inputs(name, given.seed), given.inputs)])
        reached = {(file, line) for found in few.values() for file, _, line in found}
        everything |= reached
        size = sum(map(len, few))
        sys.stdout.write(
            f"{name:<11} {len(reached):>5} lines by {len(few):>4} inputs of {size:>6} bytes; of its own modules"
        )
        for path in _READS[name]:
            lines = _lines(path)
            there = {line for file, line in reached if file == _PACKAGE + path} & lines
            sys.stdout.write(f" {path} {100 * len(there) // max(1, len(lines))} %")
            if given.missing:
                sys.stdout.write(f" without {sorted(lines - there)}")
        sys.stdout.write("\n")
        sys.stdout.flush()
        if given.keep:
            corpus.replace(name, few)
    sys.stdout.write(f"in all {len(everything)} lines of the package\n")


if __name__ == "__main__":
    main()
