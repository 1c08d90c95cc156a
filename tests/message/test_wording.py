"""Numbers in what is said to people."""

from __future__ import annotations

import pytest

from amqp_rpc.message.wording import plural


@pytest.mark.parametrize(("count", "said"), [(0, "0 tasks were"), (1, "1 task was"), (2, "2 tasks were")])
def test_one_is_said_as_one_and_any_other_number_as_many(count, said):
    assert plural(count, "task was", "tasks were") == said
