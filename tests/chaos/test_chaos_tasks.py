"""The short chaos run of tasks and events: none is lost, or too early, or a dead letter without cause."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.conftest import require_node
from tests.programs import ROOT

SEED, TASKS, SECONDS = 1, 3000, 35


@pytest.mark.slow(seconds=80)
@pytest.mark.node
@pytest.mark.timeout(500)
def test_under_faults_no_accepted_task_or_event_is_lost_comes_too_early_or_is_dead_without_cause():
    require_node()
    done = subprocess.run(
        [sys.executable, "-m", "chaos.tasks", "--seed", str(SEED), "--tasks", str(TASKS), "--seconds", str(SECONDS),
         "--scenario", "single"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=450,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    # Events were among them, for each subscription.
    handled = re.findall(r"^ +event: .*? +(\d+) +(\d+) +(\d+) +\d+$", done.stdout, re.MULTILINE)
    assert len(handled) == 4
    assert all(0 < int(accepted) == int(ran) + int(dead) for accepted, ran, dead in handled)
    # The proxies may print more when they are ended in the middle of something.
    assert "\nall zeros\n" in done.stdout
