"""A minute of inputs that nobody would write, and all of the corpus."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuzz.__main__ import CORPUS, corpus, fuzz, run
from fuzz.draw import Draw
from fuzz.targets import TARGETS

KEPT = [path for name in TARGETS for path in corpus(name)]


@pytest.fixture(autouse=True)
def silent() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(before)


@pytest.mark.parametrize("name", TARGETS)
def test_five_seconds_of_inputs_are_read_or_refused(name: str) -> None:
    count, _ = fuzz(name, seed=1, most=1_000_000, seconds=5.0)
    assert count > 0


@pytest.mark.parametrize("path", KEPT, ids=[str(path.relative_to(CORPUS)) for path in KEPT])
def test_what_once_failed_is_read_or_refused(path: Path) -> None:
    run(path.parent.name, path.read_bytes())


def test_an_input_that_raises_fails_and_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def target(draw: Draw) -> None:
        assert draw.number(255) != 7

    monkeypatch.setattr("fuzz.__main__.CORPUS", tmp_path)
    monkeypatch.setitem(TARGETS, "seven", target)
    with pytest.raises(Exception, match=r"(?s)seven: AssertionError: .*; the input is kept as"):
        fuzz("seven", seed=1, most=100_000, seconds=20.0)
    (kept,) = (tmp_path / "seven").iterdir()
    assert kept.read_bytes()[0] == 7
