"""Which process this is, counted in forks: what has threads belongs to the process that made it, as they do."""

from __future__ import annotations

import os

_forks = 0


def generation() -> int:
    """Return how often this process is a fork of a fork: another number than before means another process."""
    return _forks


def _forked() -> None:
    global _forks  # noqa: PLW0603 - a fork is an event of the whole process
    _forks += 1


os.register_at_fork(after_in_child=_forked)
