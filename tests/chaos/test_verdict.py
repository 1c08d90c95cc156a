"""Verdicts on the records of a run of calls."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from chaos.history import Call, History
from chaos.verdict import given_up_early


def history(**fields: Any) -> History:
    """A history of one call with a timeout of 10 s."""
    call = Call(
        number=1, client=1, thread=0, function="pure", idempotent=True, waits=False, timeout=10.0, seconds=0.0,
        began=100.0, ended=104.0, outcome="NoServer",
    )  # fmt: skip
    for name, value in fields.items():
        setattr(call, name, value)
    return History([call], [], {}, Counter())


def test_an_idempotent_call_that_fails_with_time_left_is_found():
    assert len(given_up_early(history())) == 1


@pytest.mark.parametrize(
    "fields",
    [{"idempotent": False}, {"outcome": "result"}, {"outcome": "RemoteError"}, {"ended": 110.0}, {"ended": None}],
    ids=["not idempotent", "a result", "the function's error", "no time left", "hung, which is another verdict"],
)
def test_others_are_not(fields: dict[str, Any]):
    assert given_up_early(history(**fields)) == []
