"""Names of parametrized tests: the same in every process, as pytest-xdist needs them."""

from __future__ import annotations

import re

#: The address of an object in its repr.
ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def shown(value: object) -> str:
    """Return the repr of a value, without addresses."""
    return ADDRESS.sub("", repr(value))
