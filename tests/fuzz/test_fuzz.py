"""The corpus, and then a minute of odd inputs, the same ones each time."""

from __future__ import annotations

import itertools
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuzz import corpus
from fuzz.__main__ import jobs
from fuzz.draw import Draw
from fuzz.engines import by_chance, by_hypothesis, random_inputs
from fuzz.reader import Failed, Notes, Reader
from fuzz.targets import SHARES, TARGETS

ROOT = Path(__file__).resolve().parents[2]
#: Together they take about a minute.
INPUTS = {job.name: job.most for job in jobs([*TARGETS], ["random"], most=300_000, seconds=0, seed=1)}
#: Inputs that hypothesis makes; and the least per cent that get past the first check of each target.
BY_HYPOTHESIS, PAST = 30, 10


@pytest.fixture(autouse=True)
def silent() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(before)


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_in_the_corpus_is_read_or_refused(name: str) -> None:
    kept = corpus.load(name)
    reader = Reader(name, Notes())
    for data in kept:
        reader.read(Draw(data))
    assert kept


def test_the_corpus_is_small_and_has_nothing_twice() -> None:
    assert sum(path.stat().st_size for path in corpus.FOLDER.iterdir()) <= 300_000
    assert {path.stem for path in corpus.FOLDER.iterdir()} == TARGETS.keys()
    for name in TARGETS:
        kept = corpus.load(name)
        assert len(kept) == len(set(kept)), name


@pytest.mark.slow(seconds=4)
@pytest.mark.parametrize("name", TARGETS)
def test_random_inputs_are_read_or_refused_and_many_get_past_the_first_check(name: str) -> None:
    reader = Reader(name, notes := Notes())
    for data in itertools.islice(random_inputs(name, 1), INPUTS[name]):
        reader.read(Draw(data))
    assert notes.inputs == INPUTS[name]
    assert notes.past * 100 > PAST * notes.inputs


@pytest.mark.parametrize("name", TARGETS)
def test_choices_of_hypothesis_are_read_or_refused(name: str) -> None:
    reader = Reader(name, notes := Notes())
    by_hypothesis(reader, most=BY_HYPOTHESIS, seconds=60.0, seed=1)
    assert notes.inputs


def test_the_same_seed_makes_the_same_inputs_and_the_corpus_is_first() -> None:
    first, again, other = (list(itertools.islice(random_inputs("decode", seed), 2000)) for seed in (1, 1, 2))
    kept = corpus.load("decode")
    assert first == again != other
    assert first[: len(kept)] == kept


def test_each_target_gets_its_share_and_all_shares_are_all_inputs() -> None:
    each = jobs([*TARGETS], ["random", "hypothesis", "atheris"], most=10_000_000, seconds=0, seed=1)
    assert sum(job.most for job in each) == 10_000_000
    assert sum(SHARES.values()) == 1000
    assert {job.name for job in each if job.engine == "random"} == TARGETS.keys()


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(corpus, "FOLDER", tmp_path)
    return tmp_path


def test_an_input_that_raises_fails_and_is_kept(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def seven(draw: Draw) -> bool:
        assert draw.number(255) != 7
        return True

    monkeypatch.setitem(TARGETS, "seven", seven)
    reader = Reader("seven", Notes())
    with pytest.raises(Failed, match=r"(?s)seven: AssertionError: .*; the input is kept in"):
        by_chance(reader, most=100_000, seconds=60.0, seed=1)
    ((why, kept),) = corpus.failed("seven")
    assert why.startswith("AssertionError")
    assert kept[0] == 7
    assert corpus.load("seven") == [kept]


def test_a_corpus_that_is_chosen_anew_keeps_what_once_failed(folder: Path) -> None:
    corpus.keep("x", b"bad", "ValueError: no\nmore")
    corpus.replace("x", [b"b", b"a", b"bad"])
    assert corpus.failed("x") == [("ValueError: no more", b"bad")]
    assert corpus.load("x") == [b"a", b"b", b"bad"]


PROGRAM = """
import os, sys
from pathlib import Path
from fuzz import corpus, reader, targets
from fuzz.__main__ import main

def stuck(draw):
    while draw.number(255) >= 0:
        pass

def crashes(draw):
    return draw.number(255) != 7 or os.abort()

def hungry(draw):
    return draw.number(255) != 7 or len(bytearray(100 << 20)) > 0

def greedy(draw):
    return draw.number(255) != 7 or len(bytearray(4 << 30)) > 0

corpus.FOLDER, reader.STUCK = Path(sys.argv.pop(1)), 1
targets.TARGETS.clear()
targets.SHARES.clear()
for each in (stuck, crashes, hungry, greedy):
    targets.TARGETS[each.__name__], targets.SHARES[each] = each, 250
sys.exit(main())
"""


def test_an_input_that_takes_too_much_is_kept_and_the_others_are_read(tmp_path: Path) -> None:
    kept = tmp_path / "corpus"
    command = [sys.executable, "-c", PROGRAM, str(kept), "--engine", "random", "--inputs", "20000", "--processes", "4"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=110,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    for said in (
        "stuck: its process ended: SIGXCPU",
        "crashes: its process ended: SIGABRT",
        "hungry: Failed: the peak of memory grew by",
        "greedy: MemoryError",
    ):
        assert said in done.stdout + done.stderr
    assert {path.stem for path in kept.iterdir()} == {"stuck", "crashes", "hungry", "greedy"}
    # An exception ends no process.
    assert re.search(r"\ngreedy .* 10 failed\n", f"\n{done.stdout}")
