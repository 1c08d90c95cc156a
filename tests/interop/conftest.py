"""A server of ours for programs that know nothing of us."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.programs import serving


@pytest.fixture(scope="module")
def served(broker: str) -> Iterator[str]:
    """The URL of a broker with ``amqp-rpc serve services.fib`` on it, in a process of its own."""
    with serving("services.fib", url=broker):
        yield broker
