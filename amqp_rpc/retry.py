"""How long to wait before the next attempt; the only importer of tenacity. Pure: it neither waits nor reads a clock."""

from __future__ import annotations

from typing import Any

import tenacity

#: By how much of itself a wait is longer or shorter: gRPC's retries have the same,
#: https://github.com/grpc/proposal/blob/master/A6-client-retries.md
JITTER = 0.2


def backoff(attempt: int, *, first: float, most: float) -> float:
    """Return the seconds to wait after an attempt that failed: doubled each time, with jitter, bounded.

    The jitter keeps a thousand clients of one broker from coming back in the same instant:
    https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/

    Args:
        attempt: How many attempts have failed in a row, from 1.
        first: Seconds after the first one, before jitter.
        most: The longest wait, in seconds.
    """
    state: Any = tenacity.RetryCallState(retry_object=None, fn=None, args=(), kwargs={})  # type: ignore[arg-type]
    # Beyond that the bound holds anyway, and a float's exponent does not overflow.
    state.attempt_number = min(attempt, 60)
    wait = float(tenacity.wait_exponential(multiplier=first, max=most)(state))
    return float(tenacity.wait_random(wait * (1 - JITTER), wait * (1 + JITTER))(state))
