"""How long to wait before the next attempt; the only importer of tenacity. Pure: it neither waits nor reads a clock."""

from __future__ import annotations

from typing import Any

#: By how much of itself a wait is longer or shorter: gRPC's retries have the same,
#: https://github.com/grpc/proposal/blob/master/A6-client-retries.md
JITTER = 0.2


#: How often one call is sent, at most; gRPC has the same bound.
MOST_ATTEMPTS = 5
#: Seconds before a call is sent again, doubled each time, and the most.
FIRST_RETRY, LONGEST_RETRY = 0.1, 2.0


class RetryBudget:
    """How many calls a client may send again: so that an outage is not multiplied by everybody's second tries.

    Every result earns a part of a retry. Source: "Throttling Retry Attempts" of gRPC's retry design (A6).

    Args:
        most: Retries that can be saved up, and are there at the start.
        earned: What a result adds.
    """

    def __init__(self, *, most: float = 1000.0, earned: float = 0.1) -> None:
        self._most = most
        self._earned = earned
        self._left = most

    def take(self) -> bool:
        """Take one retry; return whether there was one."""
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def earn(self) -> None:
        """Take note of a result."""
        if self._left < self._most:
            self._left += self._earned


def retry_delay(attempt: int) -> float:
    """Return the seconds to wait before a call is sent again that was sent so many times."""
    return backoff(attempt, first=FIRST_RETRY, most=LONGEST_RETRY)


def backoff(attempt: int, *, first: float, most: float) -> float:
    """Return the seconds to wait after an attempt that failed: doubled each time, with jitter, bounded.

    The jitter keeps a thousand clients of one broker from coming back in the same instant:
    https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/

    Args:
        attempt: How many attempts have failed in a row, from 1.
        first: Seconds after the first one, before jitter.
        most: The longest wait, in seconds.
    """
    # It imports asyncio, which takes as long as all the rest of us, and most programs never retry.
    import tenacity  # noqa: PLC0415

    state: Any = tenacity.RetryCallState(retry_object=None, fn=None, args=(), kwargs={})  # type: ignore[arg-type]
    # Beyond that the bound holds anyway, and a float's exponent does not overflow.
    state.attempt_number = min(attempt, 60)
    wait = float(tenacity.wait_exponential(multiplier=first, max=most)(state))
    return float(tenacity.wait_random(wait * (1 - JITTER), wait * (1 + JITTER))(state))
