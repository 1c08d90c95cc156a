"""The engines that make inputs: random mutations, hypothesis, atheris.

Random ones are the most, since they cost the least. hypothesis looks at the edges of each choice. atheris sees which
code an input reaches, and looks for inputs that reach new code.
"""

from __future__ import annotations

import gc
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from types import FunctionType

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.errors import StopTest, UnsatisfiedAssumption

from fuzz import corpus
from fuzz.draw import Draw
from fuzz.inputs import mutated
from fuzz.reader import BATCH, LONGEST, MOST_SPACE, STUCK, Reader

#: Bytes of a random input; and how many inputs are remembered to be changed.
_LONGEST, _REMEMBERED = 400, 512
#: An input in so many takes the place of one that is remembered.
_REPLACED = 100


def random_inputs(name: str, seed: int) -> Iterator[bytes]:
    """Yield the corpus, and then random inputs and changed ones, without an end: the same for a seed."""
    known = corpus.load(name)
    yield from known
    chance = random.Random(f"{seed} {name}")  # noqa: S311 - no secret
    count, bits, octets = 0, chance.getrandbits, chance.randbytes
    while True:
        count += 1
        if known and bits(1):
            data = mutated(Draw(octets(40)), known[bits(16) % len(known)])[:LONGEST]
        else:
            data = octets(bits(16) % _LONGEST)
        yield data
        if len(known) < _REMEMBERED:
            known.append(data)
        elif count % _REPLACED == 0:
            known[bits(16) % _REMEMBERED] = data


def by_chance(reader: Reader, *, most: int, seconds: float, seed: int) -> None:
    """Read the corpus, and then random inputs and changed ones."""
    end = time.monotonic() + seconds
    for count, data in enumerate(random_inputs(reader.name, seed)):
        if count >= most or reader.over:
            break
        if count % BATCH == 0:
            reader.limit()
        if time.monotonic() > end:
            break
        reader.read(Draw(data))


class _Recorded(Draw):
    """Takes choices from hypothesis, and notes the bytes that make the same choices."""

    PASSES = (*Draw.PASSES, StopTest, UnsatisfiedAssumption)

    def __init__(self, data: st.DataObject) -> None:
        super().__init__(b"")
        self._from = data

    @property
    def over(self) -> bool:
        """False: hypothesis has no end."""
        return False

    def number(self, most: int) -> int:
        found = self._from.draw(_numbers(most))
        self.data += found.to_bytes(1 if most < 1 << 8 else 2 if most < 1 << 16 else 8)
        return found

    def octets(self, count: int) -> bytes:
        found = self._from.draw(_octets(count))
        self.data += found
        return found


@lru_cache(maxsize=1000)
def _numbers(most: int) -> st.SearchStrategy[int]:
    return st.integers(0, most)


@lru_cache(maxsize=1000)
def _octets(count: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=count, max_size=count)


def by_hypothesis(reader: Reader, *, most: int, seconds: float, seed: int) -> None:
    """Read inputs whose choices hypothesis makes."""
    end = time.monotonic() + seconds

    @seeded(seed)
    @settings(
        max_examples=most, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.data())
    def one(data: st.DataObject) -> None:
        if time.monotonic() > end or reader.over:
            return
        reader.limit()
        reader.read(_Recorded(data))

    one()


def by_atheris(reader: Reader, *, most: int, seconds: float, seed: int) -> None:
    """Read inputs that atheris makes: it looks for those that reach new code. It ends this process."""
    import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]  # noqa: PLC0415 - an option

    # libFuzzer tells what it does on standard error, which is ours.
    sys.stderr = os.fdopen(os.dup(2), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    # All modules are imported; the package's own functions are what it is to see.
    for each in gc.get_objects():
        if isinstance(each, FunctionType) and (each.__module__ or "").startswith("amqp_rpc."):
            atheris.instrument_func(each)

    def one(data: bytes) -> None:
        if reader.notes.inputs % BATCH == 0:
            reader.limit()
        if not reader.over:
            reader.read(Draw(data))

    limits = [
        f"-runs={most}",
        f"-seed={seed}",
        f"-timeout={STUCK}",
        f"-rss_limit_mb={2 * MOST_SPACE}",
        f"-max_len={_LONGEST}",
    ]
    if seconds != float("inf"):
        limits.append(f"-max_total_time={max(1, int(seconds))}")
    # Fuzz() ends the process: the parent removes the folder.
    folder = tempfile.mkdtemp(prefix=f"{reader.name}.")
    for number, data in enumerate(corpus.load(reader.name)):
        (Path(folder) / f"{number}").write_bytes(data)
    atheris.Setup([sys.argv[0], *limits, folder], one)
    atheris.Fuzz()


ENGINES: dict[str, Callable[..., None]] = {"random": by_chance, "hypothesis": by_hypothesis, "atheris": by_atheris}
