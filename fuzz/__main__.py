"""``python -m fuzz``: read inputs that nobody would write; exit with 1 if one raises what it may not, or takes long."""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from fuzz.draw import Draw
from fuzz.inputs import mutated
from fuzz.targets import TARGETS, silence

CORPUS = Path(__file__).parent / "corpus"
#: Bytes of a random input; and how many inputs are remembered to be changed.
_LONGEST, _REMEMBERED = 400, 256
#: Seconds that one input may take, and after which a stuck one is shown and ends the program; MiB of memory in all.
SLOWEST, STUCK, MOST_MEMORY = 2.0, 60.0, 600


class Failed(Exception):
    """An input failed: it is in the corpus now."""


def run(name: str, data: bytes) -> float:
    """Read one input with a target; return the seconds that it took."""
    began = time.perf_counter()
    TARGETS[name](Draw(data))
    took = time.perf_counter() - began
    if took > SLOWEST:
        raise Failed(f"it took {took:.1f} s")
    return took


def corpus(name: str) -> list[Path]:
    """Return the kept inputs of a target."""
    return sorted((CORPUS / name).glob("*"))


def inputs(name: str, chance: random.Random) -> Iterator[bytes]:
    """Yield the corpus, and then random inputs and changed ones, without an end."""
    known = [path.read_bytes() for path in corpus(name)]
    yield from known
    while True:
        if known and chance.random() < 0.5:  # noqa: PLR2004 - half of them
            data = mutated(Draw(chance.randbytes(64)), chance.choice(known))
        else:
            data = chance.randbytes(chance.randrange(_LONGEST))
        yield data
        if len(known) < _REMEMBERED:
            known.append(data)
        elif chance.random() < 0.01:  # noqa: PLR2004 - now and then another one
            known[chance.randrange(_REMEMBERED)] = data


def fuzz(name: str, *, seed: int, most: int, seconds: float) -> tuple[int, float]:
    """Read inputs with a target; return how many, and the seconds of the slowest.

    Raises:
        Failed: An input raised what it may not, or took too long. It is kept in the corpus.
    """
    count, slowest, end = 0, 0.0, time.monotonic() + seconds
    for data in inputs(name, random.Random(f"{seed} {name}")):  # noqa: S311 - no secret
        if count >= most or time.monotonic() > end:
            break
        faulthandler.dump_traceback_later(STUCK, exit=True)
        try:
            slowest = max(slowest, run(name, data))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise Failed(_kept(name, data, error)) from error
        finally:
            faulthandler.cancel_dump_traceback_later()
        count += 1
    return count, slowest


def _kept(name: str, data: bytes, error: BaseException) -> str:
    path = CORPUS / name / hashlib.sha256(data).hexdigest()[:16]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return f"{name}: {type(error).__name__}: {error}; the input is kept as {path}"


def main() -> int:
    """Read the options, run the targets one after another, and print a line for each."""
    parser = argparse.ArgumentParser(
        prog="python -m fuzz",
        description="Inputs that nobody would write. A failed one is kept in fuzz/corpus, which tests read.",
    )
    parser.add_argument("--target", choices=[*TARGETS, "all"], default="all")
    parser.add_argument("--inputs", type=int, default=10_000_000, help="in all (10 000 000)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="in all (no limit)")
    parser.add_argument("--seed", type=int, default=1, help="for the random engine (1)")
    parser.add_argument(
        "--engine", choices=["random", "atheris"], default="random",
        help="atheris looks for inputs that reach new code (pip install atheris), one target at a time; then "
        "--inputs and --seconds are for that target",
    )  # fmt: skip
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    silence()
    names = [*TARGETS] if given.target == "all" else [given.target]
    if given.engine == "atheris":
        if len(names) > 1:
            parser.error("--engine atheris needs a --target")
        return _atheris(names[0], most=given.inputs, seconds=given.seconds, seed=given.seed)
    failed, total = 0, 0
    for name in names:
        began = time.monotonic()
        try:
            count, slowest = fuzz(
                name, seed=given.seed, most=given.inputs // len(names), seconds=given.seconds / len(names)
            )
        except Failed as failure:
            failed += 1
            traceback.print_exception(failure.__cause__, limit=-8)
            _say(f"FAILED {failure}")
            continue
        total += count
        rate = count / max(time.monotonic() - began, 0.001)
        _say(f"{name:<11} {count:>10} inputs  {rate:>8.0f} a second  slowest {slowest * 1000:>7.1f} ms")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    _say(f"{'in all':<11} {total:>10} inputs  most memory {memory} MiB  {failed} failed")
    if memory > MOST_MEMORY:
        _say(f"FAILED more than {MOST_MEMORY} MiB")
        failed += 1
    return 1 if failed else 0


def _atheris(name: str, *, most: int, seconds: float, seed: int) -> int:
    try:
        import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]  # noqa: PLC0415 - an option
    except ImportError:
        sys.exit("atheris is not installed: pip install atheris")
    atheris.instrument_all()

    def one(data: bytes) -> None:
        try:
            run(name, data)
        except Exception as error:
            raise Failed(_kept(name, data, error)) from error

    limits = [f"-runs={most}", f"-seed={seed}", f"-timeout={int(STUCK)}", f"-rss_limit_mb={2 * MOST_MEMORY}"]
    if seconds != float("inf"):
        limits.append(f"-max_total_time={int(seconds)}")
    atheris.Setup([sys.argv[0], *limits, *([str(CORPUS / name)] if corpus(name) else [])], one)
    atheris.Fuzz()
    return 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
