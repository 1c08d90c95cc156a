"""One call, one task and one event pass few modules, and a call none that only tasks and events need."""

from __future__ import annotations

import pytest

from scripts.picture import PAGE
from scripts.walk import modules, walk

#: The most modules that each may pass, client and server together.
AT_MOST = {"call": 25, "task": 25, "event": 25}
#: Words in the names of modules that a call has nothing to do with.
NOT_FOR_CALLS = ("task", "event", "subscri", "recorder", "result", "declare", "outbox", "publisher", "delay", "dead")


@pytest.mark.parametrize("kind", AT_MOST)
def test_a_walk_is_short(url: str, kind: str) -> None:
    steps = walk(kind, url)
    passed = modules(steps)
    assert {"client.client", "server.worker", "server.invoke"} <= passed
    assert len(passed) <= AT_MOST[kind], "\n".join(f"{step.side} {step.module}" for step in steps)
    page = PAGE.read_text()
    assert not [module for module in passed if f"`{module.replace('.', '/')}`" not in page], "not in the page's walks"
    if kind == "call":
        assert not [module for module in passed if any(word in module for word in NOT_FOR_CALLS)]
