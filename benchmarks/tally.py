"""The count of the tasks that a worker has run, which it reports to the bench at the end.

The worker runs with ``BENCH_COUNT``, the number of different tasks, and ``BENCH_REPORT``, a file to write: JSON
with ``ran``, ``distinct``, and the ``seconds`` from the first to the last.

It runs in every contender's own environment, so it imports the standard library only.
"""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path


class Tally:
    """Counts tasks; any thread, and next to nothing for each."""

    def __init__(self, expected: float, report: str) -> None:
        self._expected = expected
        self._report = report
        self._texts: list[str] = []
        self._began = 0.0
        self._lock = threading.Lock()

    def ran(self, text: str) -> None:
        """Count a task."""
        if not self._texts:
            self._began = time.perf_counter()
        self._texts.append(text)
        if len(self._texts) >= self._expected:
            self._tell()

    def _tell(self) -> None:
        now = time.perf_counter()
        with self._lock:
            distinct = len(set(self._texts))
            if distinct < self._expected:
                return  # some ran twice, and others have not run yet
            self._expected = float("inf")
            told = {"ran": len(self._texts), "distinct": distinct, "seconds": now - self._began}
            unfinished = Path(f"{self._report}.part")
            unfinished.write_text(json.dumps(told))
            unfinished.rename(self._report)


TALLY = Tally(float(os.environ.get("BENCH_COUNT", "inf")), os.environ.get("BENCH_REPORT", ""))
