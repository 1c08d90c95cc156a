"""Values as text for people."""

from __future__ import annotations

import pytest

from amqp_rpc.message.text import brief, plural, text_of


@pytest.mark.parametrize(("count", "said"), [(0, "0 tasks were"), (1, "1 task was"), (2, "2 tasks were")])
def test_one_is_singular_and_any_other_number_plural(count, said):
    assert plural(count, "task was", "tasks were") == said


def test_a_huge_value_is_shown_in_brief():
    assert len(brief(["x" * 1000] * 1000)) < 1000


class Hostile:
    def __str__(self):
        raise RuntimeError

    __repr__ = __str__


def test_a_value_without_text_has_its_types_name():
    assert brief(Hostile()).startswith("<Hostile")
    # Python 3.14 adds how many digits it has.
    assert brief(10**5000).startswith("<int")
    assert text_of(Hostile()) == "(Hostile, whose text raises RuntimeError)"
    assert text_of("half a pair: \ud800") == "half a pair: \\ud800"
