"""The corpus: inputs that reach what others do not, and all that ever failed.

Each target has a file, with a line of base64 for each input; what once failed has its failure in the line before.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterable
from pathlib import Path

FOLDER = Path(__file__).parent / "corpus"
_WHY = "# "


def load(name: str) -> list[bytes]:
    """Return the inputs of a target."""
    return [base64.b64decode(line) for line in _lines(name) if not line.startswith(_WHY)]


def failed(name: str) -> list[tuple[str, bytes]]:
    """Return the inputs that once failed, each with its failure."""
    lines = _lines(name)
    return [
        (line.removeprefix(_WHY), base64.b64decode(after))
        for line, after in itertools.pairwise(lines)
        if line.startswith(_WHY)
    ]


def keep(name: str, data: bytes, why: str) -> str:
    """Add an input that failed, with its failure in one line; return where it is."""
    path = FOLDER / f"{name}.txt"
    FOLDER.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(f"{_WHY}{' '.join(why.split())[:200]}\n{base64.b64encode(data).decode()}\n")
    return str(path)


def replace(name: str, chosen: Iterable[bytes]) -> None:
    """Write the corpus of a target anew: these inputs, and those that once failed."""
    kept = failed(name)
    FOLDER.mkdir(parents=True, exist_ok=True)
    lines = sorted(base64.b64encode(data).decode() for data in {*chosen} - {data for _, data in kept})
    for why, data in kept:
        lines += [f"{_WHY}{why}", base64.b64encode(data).decode()]
    (FOLDER / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))


def _lines(name: str) -> list[str]:
    path = FOLDER / f"{name}.txt"
    return path.read_text().splitlines() if path.exists() else []
