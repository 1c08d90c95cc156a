"""Notices calls that nobody has any more; belongs to the connection's owner. Pure: no socket, no thread, no clock.

A request is lost with a queue that is deleted or purged, or with a cluster's node that dies; a reply with the
connection that was carrying it. The broker tells no caller of either. But servers say, twice a second, which calls they
have in hand: a call of which nobody says so, and that does not wait in its queue, is lost.

Silence is counted in looks, not in seconds: a process that was stopped for a minute has missed one look, not all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from amqp_rpc.amqp.pending import Pending
from amqp_rpc.client.call import Call
from amqp_rpc.message.settings import SIGN_INTERVAL

#: A call counts as silent after this part of its timeout, and after so many seconds at least and at most.
_PART, _LEAST, _MOST = 0.1, 1.5, 5.0


class Silence:
    """Watches the calls that were written."""

    def __init__(
        self,
        pending: Pending[Call],
        *,
        ask: Callable[[str], object],
        lost: Callable[[Call], object],
        orphaned: Callable[[Call], object],
    ) -> None:
        self._pending = pending
        self._ask = ask
        self._lost = lost
        self._orphaned = orphaned
        #: The queues whose servers are known to say what they have in hand. Others may be in any language.
        self._telling: set[str] = set()

    def written(self, call: Call) -> None:
        """Take note that a call was written just now."""
        call.silent, call.reported = 0, False

    def answered(self, call: Call, *, tells: bool) -> None:
        """Take note of a reply, and of whether its server is one that says what it has in hand."""
        if tells:
            self._telling.add(call.queue)

    def heard(self, identities: Iterable[object]) -> None:
        """Take note that a server says it has these calls in hand."""
        for identity in identities:
            if isinstance(identity, str) and (call := self._pending.get(identity)) is not None:
                call.silent, call.reported = 0, True
                self.answered(call, tells=True)

    def look(self) -> None:
        """Count one more silent interval for each call, and ask for the queues of those that are silent too long."""
        queues = set()
        for _, call in self._pending:
            if call.written:
                call.silent += 1
                if call.silent >= _patience(call) and call.queue in self._telling:
                    queues.add(call.queue)
        for queue in queues:
            self._ask(queue)

    def inspected(self, queue: str, messages: int, consumers: int) -> None:
        """Judge the silent calls of a queue by what the broker says of it; nothing of both where there is none.

        As long as the queue has messages, each of them may be the call: given back by a server that died with it. Sent
        again it would be two calls that kill servers.
        """
        for _, call in self._pending:
            if call.queue != queue or not call.written or call.silent < _patience(call):
                continue
            if call.idempotent and consumers and not messages:
                self._lost(call)
            elif not (call.idempotent or consumers) and (call.reported or not messages):
                self._orphaned(call)


def _patience(call: Call) -> int:
    """Return the looks without a word of a call after which it counts as silent."""
    return math.ceil(min(max(call.timeout * _PART, _LEAST), _MOST) / SIGN_INTERVAL)
