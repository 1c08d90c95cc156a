"""Where the lines go that tell a waiting person what is being waited for."""

from __future__ import annotations

import sys
from collections.abc import Callable

Say = Callable[[str], None]


def say_to_stderr(line: str) -> None:
    """Print a line of progress: results are for stdout, so it goes to stderr."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201
