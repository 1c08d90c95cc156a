"""Detects lost calls by missing reports of servers. Pure: no socket, no thread, no clock. It is a seam: it only judges.

A request is lost with a queue that is deleted or purged, or with a cluster's node that dies; a reply with the
connection that was carrying it. The broker reports neither. But servers report, twice a second, the calls that they
have in flight: a call that no server reports, and that does not wait in its queue, is lost.

Missing reports are counted in looks, not in seconds: a process that was stopped for a minute has missed one, not all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from amqp_rpc.amqp.pending import InFlight
from amqp_rpc.client.call import Call
from amqp_rpc.message.settings import LIVENESS_INTERVAL

if TYPE_CHECKING:
    from amqp_rpc.amqp.channel import QueueState

#: A call counts as silent after this part of its timeout, and after so many seconds at least and at most.
_PART, _LEAST, _MOST = 0.1, 1.5, 5.0

#: So many looks pass after the queue was seen with messages: a server that took the call since then has reported it.
_LOOKS_FOR_A_REPORT = 3


class Liveness:
    """Watches the calls that were written."""

    def __init__(self, pending: InFlight[Call]) -> None:
        self._pending = pending
        #: The queues whose servers are known to send reports. Others may be in any language.
        self._reporting: set[str] = set()

    def written(self, call: Call) -> None:
        """Note that a call was written just now."""
        call.silent, call.reported = 0, False

    def answered(self, call: Call, *, reports: bool) -> None:
        """Note a reply, and whether its server is one that sends reports."""
        if reports:
            self._reporting.add(call.queue)

    def reported(self, identities: Iterable[object]) -> None:
        """Note a server's report: it has these calls in flight."""
        for identity in identities:
            if isinstance(identity, str) and (call := self._pending.get(identity)) is not None:
                call.silent, call.reported = 0, True
                self.answered(call, reports=True)

    def look(self) -> set[str]:
        """Count one more silent interval for each call; return the queues whose state `lost` needs to know."""
        queues = set()
        for _, call in self._pending:
            if call.written:
                call.silent += 1
                if call.silent >= _patience(call) and call.queue in self._reporting:
                    queues.add(call.queue)
        return queues

    def lost(self, state: QueueState) -> list[Call]:
        """Return the silent calls of a queue that are lost, by the queue's state.

        An idempotent call is lost if the queue has a server and no messages. As long as the queue has messages, each of
        them may be the call, requeued when a server died with it; sent again, it would be two calls that kill servers.
        A call that a server takes a moment before the look is in neither, so it gets time for a first report.
        Another call is lost if the queue has no server, and the call was reported before or the queue has no messages.
        """
        lost = []
        for _, call in self._pending:
            if call.queue != state.name or not call.written or call.silent < _patience(call):
                continue
            if call.idempotent:
                missing = state.consumers and not state.messages
                if state.messages:
                    call.silent -= _LOOKS_FOR_A_REPORT
            else:
                missing = not state.consumers and (call.reported or not state.messages)
            if missing:
                lost.append(call)
        return lost


def _patience(call: Call) -> int:
    """Return the looks without a report after which a call counts as silent."""
    return math.ceil(min(max(call.timeout * _PART, _LEAST), _MOST) / LIVENESS_INTERVAL)
