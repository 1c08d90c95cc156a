"""Values that become sets and maps with other keys than they arrived with: their hashes are checked before."""

from __future__ import annotations

import dataclasses
from collections import Counter
from decimal import Decimal
from fractions import Fraction
from ipaddress import IPv6Network
from typing import Any
from uuid import UUID

import msgspec
import pytest

from amqp_rpc.service.hints import Hint

P = 2**61 - 1
MANY = 2000


@dataclasses.dataclass
class Order:
    parts: set[int]


NUMBERS = [k * P for k in range(MANY)]
UUIDS = [str(UUID(int=k)) for k in NUMBERS]
TEXTS = [str(k) for k in NUMBERS]
NETWORKS = [str(IPv6Network((int("f" * 32, 16) ^ (k * P & ~1), 128))) for k in range(1, MANY)]


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (set[int], NUMBERS),
        (frozenset[int], NUMBERS),
        (set, NUMBERS),
        (set[Any], NUMBERS),
        (set[float], NUMBERS),
        (set[int], [*NUMBERS, "no number"]),
        (set[int], [*NUMBERS, {}]),
        (set[int | str], NUMBERS),
        (set[Decimal], TEXTS),
        (set[Fraction], TEXTS),
        (set[Fraction], NUMBERS),
        (set[UUID], UUIDS),
        (set[UUID], [*UUIDS, "no UUID"]),
        (dict[UUID, int], dict.fromkeys(UUIDS, 1)),
        (dict[int, int], dict.fromkeys(TEXTS, 1)),
        (dict[Decimal, int], dict.fromkeys(TEXTS, 1)),
        (Counter[UUID], dict.fromkeys(UUIDS, 1)),
        (set[tuple[int, int]], [[k, 1] for k in NUMBERS]),
        (set[frozenset[int]], [[k, 1] for k in NUMBERS]),
        (list[set[int]], [[1], NUMBERS]),
        (dict[str, set[int]], {"a": NUMBERS}),
        (Order, {"parts": NUMBERS}),
        (list[Order], [{"parts": NUMBERS}]),
        (set[int] | None, NUMBERS),
    ],
    ids=lambda each: str(each)[:40],
)
@pytest.mark.parametrize("strict", [True, False])
def test_what_collides_as_the_hint_s_type_is_refused(hint, value, strict):
    with pytest.raises(msgspec.ValidationError, match="have the hashes of others"):
        Hint(hint).convert(value, binary=False, strict=strict)


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (set[int], list(range(MANY))),
        (set[UUID], [str(UUID(int=k)) for k in range(MANY)]),
        (dict[int, int], {str(k): k for k in range(MANY)}),
        (dict[str, int], dict.fromkeys(TEXTS, 1)),
        (set[str], TEXTS),
        (list[int], NUMBERS),
        (Order, {"parts": list(range(MANY))}),
        (set[tuple[int, int]], [[k, k] for k in range(MANY)]),
    ],
    ids=lambda each: str(each)[:40],
)
def test_others_are_converted(hint, value):
    assert len(msgspec.to_builtins(Hint(hint).convert(value, binary=False))) == len(value)


def test_a_fraction_is_no_power_of_ten():
    with pytest.raises(msgspec.ValidationError, match="two whole numbers"):
        Hint(Fraction).convert("1e999999999", binary=True)
    assert Hint(Fraction).convert("-3/4", binary=True) == Fraction(-3, 4)
