"""Numbers in what is said to people: one result was, two results were."""

from __future__ import annotations


def plural(count: int, one: str, many: str) -> str:
    """Return a number with the words that go with it.

    Example:
        >>> plural(1, "result was", "results were"), plural(0, "result was", "results were")
        ('1 result was', '0 results were')
    """
    return f"{count} {one if count == 1 else many}"
