"""A channel that is kept open: it opens with its connection, sets itself up, and reopens when the broker closes it.

Subclass `Keeper` and write `set_up`; the other hooks do nothing unless overridden. Everything belongs to the
connection's I/O thread, but for `begin`. This is the one place that decides when a channel is opened again.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING

from amqp_rpc.amqp.channel import Channel, ChannelClosed
from amqp_rpc.amqp.loop import where_signals_raise
from amqp_rpc.errors import BrokerError
from amqp_rpc.message.timing import FIRST_RETRY, LONGEST_RETRY, Repeats, backoff

if TYPE_CHECKING:
    from amqp_rpc.amqp.connection import Connection

from amqp_rpc.message.text import bounded_logger, text_of

logger: logging.Logger = bounded_logger(__name__)

#: A channel that stays open for so many seconds has worked: the next back-off starts from its first wait.
_WORKED = 5.0


class Keeper:
    """One channel of a connection, for as long as there is one; a listener of that connection.

    Args:
        name: The channel's, in logs: ``queue thumbnails``, ``reply queue``.
    """

    #: Seconds before the channel is opened again, and the most, for a broker that closes it again and again.
    FIRST_PAUSE, LONGEST_PAUSE = FIRST_RETRY, LONGEST_RETRY

    def __init__(self, name: str) -> None:
        self.name = name
        self._connection: Connection | None = None
        #: The channel, once it is set up.
        self.channel: Channel | None = None
        #: The channel, from its opening on; and a flag that is set while it is opened or set up.
        self._newest: Channel | None = None
        self._opening = False
        #: How often the broker has closed it in a row.
        self.closings: int = 0
        self._ready_since = 0.0
        #: The log lines of its outage.
        self._repeats = Repeats()
        #: The error of the last one that was no refusal.
        self._defect: BrokerError | None = None
        #: True if the last channel was closed before it was set up.
        self._refused = False
        #: True once it is closed for good.
        self.ended: bool = False

    @property
    def connection(self) -> Connection:
        """The connection, after `begin`."""
        assert self._connection is not None
        return self._connection

    def begin(self, connection: Connection) -> None:
        """Belong to a connection from now on; before it is started, or on its I/O thread."""
        if self._connection is not connection:
            self._connection, self.channel, self._newest, self._opening = connection, None, None, False

    # Hooks.

    async def set_up(self, channel: Channel) -> None:
        """Declare, consume and so on. A channel that the broker closes meanwhile is opened again, after a pause."""

    def ready(self) -> None:
        """Go on with ``self.channel``, which is set up."""

    def closed(self, error: BrokerError, code: int) -> None:
        """Forget the channel, which the broker has closed, or the consumer, which it has cancelled (code 0).

        Not called when the connection is lost: see `lost`.
        """

    def lost(self, error: BrokerError) -> None:
        """Forget the connection with its channels and exclusive queues. `end_all` follows if it was never open."""

    def end_all(self, error: BrokerError) -> None:
        """End all that waits for the channel: there will be no connection any more. Any thread."""

    def broken(self, error: BrokerError) -> None:
        """End what waits, or the start: a defect, and not the broker, keeps the channel from being set up."""
        self.end_all(error)

    def wanted(self) -> bool:
        """Return whether the channel is to be open: asked when it could be opened."""
        return True

    def pause(self, code: int) -> float:  # noqa: ARG002 - for those who override it
        """Return the seconds until the channel is opened again, after the broker has closed it for that reason."""
        return backoff(self.closings, first=self.FIRST_PAUSE, most=self.LONGEST_PAUSE)

    def report(self, error: BrokerError, code: int, pause: float) -> None:  # noqa: ARG002 - as above
        """Log that the channel is closed, and will be opened again after so many seconds."""
        times = self._repeats.again(str(error))
        level = logging.DEBUG if times is None else logging.WARNING
        logger.log(level, "%s: %s; trying again in %.1f s%s", self.name, error, pause, times or "")

    # The connection's events.

    def on_open(self) -> None:
        """Open the channel, if it is wanted and not open yet."""
        if not self.ended and self.wanted():
            self.open()

    def on_unblocked(self) -> None:
        """Publish again: the broker accepts messages again, after an alarm."""

    def on_lost(self, error: BrokerError) -> None:
        """Forget the channel."""
        self.channel, self._newest, self._opening = None, None, False
        self.closings, self._refused = 0, False
        self.lost(error)
        if not self.connection.was_open:
            self.end_all(error)

    # For subclasses to call.

    def open(self) -> None:
        """Open the channel, unless it is open; without an open connection, `on_open` will do it."""
        if self._newest is None and not self._opening and self.connection.is_open:
            self._opening = True
            self.connection.run(self._open())

    def cancelled(self) -> None:
        """Open another channel: the broker has cancelled a consumer of this one. For ``consume(on_cancelled=)``."""
        if self._newest is not None:
            channel = self._newest
            self._reopen(BrokerError("consumer cancelled by the broker (was the queue deleted?)"), 0)
            channel.close()

    def close(self) -> None:
        """Close the channel for good; harmless when it is closed."""
        self.ended = True
        self.channel, channel, self._newest = None, self._newest, None
        if channel is not None:
            channel.close()

    async def _open(self) -> None:
        """Open the channel, and stay with it until the broker closes it."""
        channel: Channel | None = None
        closed: ChannelClosed | None = None
        try:
            channel = await self.connection.open_channel()
            if self.ended:
                channel.close()
                return
            self._newest = channel
            await self.set_up(channel)
            self._is_set_up(channel)
            self.ready()
            await channel.closed()
        except ChannelClosed as error:
            # It may be another channel, which the set-up needs.
            closed = error
        except Exception as error:
            if where_signals_raise():
                raise
            self._defect = BrokerError(f"{self.name}: failed, by a defect: {type(error).__name__}: {text_of(error)}")
            closed = ChannelClosed(self._defect, 0)
            if (times := self._repeats.again(str(self._defect))) is not None:
                logger.exception("%s: failed%s", self.name, times)
        if closed is not None and channel is self._newest and not self.ended:
            self._reopen(closed.error, closed.code)
        if channel is not None:
            channel.close()

    def _is_set_up(self, channel: Channel) -> None:
        self._opening, self.channel, self._ready_since = False, channel, time.monotonic()
        if self._refused:
            self._refused = False
            if (times := self._repeats.again("works again")) is not None:
                logger.warning("%s: works again%s", self.name, times)
        if self._repeats:
            self.connection.loop.call_later(_WORKED, partial(self._has_worked, channel))

    def _has_worked(self, channel: Channel) -> None:
        """End the outage, if the channel is still open."""
        if channel is self.channel:
            self.closings = 0
            if (times := self._repeats.over()) is not None:
                logger.warning("%s: has worked for %.0f s%s", self.name, _WORKED, times)

    def _reopen(self, error: BrokerError, code: int) -> None:
        if self.channel is None:
            self._refused = True
        elif time.monotonic() - self._ready_since > _WORKED:
            self.closings = 0
        self.channel, self._newest, self._opening = None, None, False
        self.closings += 1
        pause = self.pause(code)
        # In this order: whatever a hook raises, the channel is opened again.
        self.connection.loop.call_later(pause, self.on_open)
        self.report(error, code, pause)
        self.closed(error, code)
        if error is self._defect:
            self.broken(error)
