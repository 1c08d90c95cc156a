"""The short chaos run of tasks and events: none is lost, or too early, or a dead letter without cause."""

from __future__ import annotations

import re

import pytest

from tests.chaos.test_chaos import chaos


@pytest.mark.slow(seconds=80)
@pytest.mark.node
@pytest.mark.timeout(500)
def test_under_faults_no_accepted_task_or_event_is_lost_comes_too_early_or_is_dead_without_cause() -> None:
    printed = chaos("chaos.tasks", "--tasks", "3000", seconds=35)
    # Events were among them, for each subscription.
    handled = re.findall(r"^ +event: .*? +(\d+) +(\d+) +(\d+) +\d+$", printed, re.MULTILINE)
    assert len(handled) == 4
    assert all(0 < int(accepted) == int(ran) + int(dead) for accepted, ran, dead in handled)
