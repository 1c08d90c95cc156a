"""The short chaos run: faults of servers, broker and network under load, and all that must be zero is zero."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import require_node
from tests.programs import ROOT


def chaos(module: str, *options: str, seconds: int) -> str:
    """Run a program of chaos on one node, for so many seconds of faults; return what it printed, all zeros."""
    require_node()
    done = subprocess.run(
        [sys.executable, "-m", module, "--seed", "1", "--seconds", str(seconds), "--scenario", "single", *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=450,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    # The proxies may print more when they are ended in the middle of something.
    assert "\nall zeros\n" in done.stdout
    return done.stdout


@pytest.mark.slow(seconds=85)
@pytest.mark.node
@pytest.mark.timeout(500)
def test_under_faults_no_call_hangs_runs_twice_or_is_told_wrongly() -> None:
    # As many faults as in a minute and a half with the pauses of `make chaos`.
    chaos("chaos", "--pause", "2", seconds=62)
