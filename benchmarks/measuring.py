"""The figures of each round, and the ratios within a round: on a shared machine, only ratios are meaningful."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.protocol import Reply, Request

#: Failures, or times that it fell behind without ever keeping up, after which an entry is not tried again.
MAX_FAILURES = 2
#: The part of the asked rate that one must answer to be said to keep up.
KEEPS_UP = 0.95


@dataclass(frozen=True)
class Latency:
    """Latencies of a round, in milliseconds."""

    p50: float
    p99: float
    p999: float

    @classmethod
    def of(cls, latencies: Sequence[float]) -> Latency:
        """Return the percentiles: each is the smallest latency that so many calls did not exceed."""
        ordered = sorted(latencies)
        p50, p99, p999 = (ordered[math.ceil(part * len(ordered)) - 1] for part in (0.5, 0.99, 0.999))
        return cls(p50, p99, p999)


@dataclass
class Entry:
    """A line of a table: a contender in a case, and what was measured of it; None for a round without a figure."""

    case: str
    contender: str
    request: Request
    variant: str = ""
    rates: list[float | None] = field(default_factory=list)
    latencies: list[Latency | None] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    unsupported: str = ""
    overruns: int = 0

    @property
    def label(self) -> str:
        """Its name in tables."""
        return f"{self.contender}, {self.variant}" if self.variant else self.contender

    @property
    def hopeless(self) -> bool:
        """It is not tried again."""
        behind = self.overruns >= MAX_FAILURES and not self.measured
        return bool(self.unsupported) or behind or len(self.failures) >= MAX_FAILURES

    @property
    def measured(self) -> list[float]:
        """The figures that there are."""
        return [rate for rate in self.rates if rate is not None]

    @property
    def median(self) -> float | None:
        """The figure that half of the rounds were below."""
        return statistics.median(self.measured) if self.measured else None

    @property
    def keeps_up(self) -> bool:
        """It answered at the required rate in most rounds."""
        enough = [rate for rate in self.measured if rate >= KEEPS_UP * self.request["rate"]]
        return len(enough) * 2 > len(self.measured) + self.overruns

    @property
    def standing(self) -> str:
        """`keeps_up` as text: how often it fell behind, because a pause of the machine is no lack of speed."""
        tried = len(self.measured) + self.overruns
        behind = self.overruns + sum(rate < KEEPS_UP * self.request["rate"] for rate in self.measured)
        if self.failures:
            return f"failed: {self.failures[-1]}"
        if not tried:
            return "no: it did not at a lower rate"
        return f"{'yes' if self.keeps_up else 'no'}{f', fell behind in {behind} of {tried} rounds' if behind else ''}"

    def percentile(self, name: str) -> float | None:
        """Return the median of a percentile over the rounds."""
        values = [getattr(latency, name) for latency in self.latencies if latency is not None]
        return statistics.median(values) if values else None

    def skip(self) -> None:
        """Leave a round out."""
        self.rates.append(None)
        self.latencies.append(None)

    def take(self, reply: Reply) -> None:
        """Note what a client answered."""
        self.unsupported = reply.get("unsupported", "")
        if "error" in reply:
            self.failures.append(reply["error"])
        if "calls" not in reply or reply.get("overrun"):
            self.overruns += bool(reply.get("overrun"))
            self.skip()
            return
        self.rates.append(reply["calls"] / reply["seconds"])
        self.latencies.append(Latency.of(reply["latencies"]) if "latencies" in reply else None)

    def as_json(self) -> dict[str, Any]:
        """Return it as it stands in the results' file."""
        told = {**asdict(self), "median": self.median}
        if "rate" in self.request:
            percentiles = {name: self.percentile(name) for name in ("p50", "p99", "p999")}
            told |= {"keeps_up": self.keeps_up, "standing": self.standing, "percentiles": percentiles}
        return told


def ratios(of: Entry | None, to: Entry | None) -> list[float]:
    """Return one figure's ratio to another, of each round that has both."""
    if of is None or to is None:
        return []
    return [a / b for a, b in zip(of.rates, to.rates, strict=False) if a is not None and b]
