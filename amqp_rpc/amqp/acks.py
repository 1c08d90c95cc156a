"""Which acknowledgements say that deliveries are settled: one for as many as possible. Pure.

A burst of deliveries is settled in about its order. One acknowledgement with ``multiple`` covers a channel's deliveries
up to its tag, so it may be used only once all of them are settled: https://www.rabbitmq.com/docs/confirms
"""

from __future__ import annotations

from collections.abc import Sequence


class Acks:
    """The deliveries of one channel: their tags count from 1."""

    def __init__(self) -> None:
        #: Up to here all are acknowledged, and these beyond.
        self._all = 0
        self._beyond: set[int] = set()

    def settle(self, tags: Sequence[int]) -> list[tuple[int, bool]]:
        """Return the acknowledgements for deliveries that are settled now: tags, and whether each covers all before it.

        Args:
            tags: None that was settled before.
        """
        if len(tags) == 1 and tags[0] > self._all + 1:
            self._beyond.add(tags[0])
            return [(tags[0], False)]
        now = set(tags)
        self._beyond |= now
        last = covered = 0
        while self._all + 1 in self._beyond:
            self._all += 1
            self._beyond.remove(self._all)
            if self._all in now:
                # The tag of an acknowledgement must be one that the broker still waits for.
                last = self._all
                covered += 1
        together = [(last, covered > 1)] if covered else []
        return together + [(tag, False) for tag in tags if tag > self._all]
