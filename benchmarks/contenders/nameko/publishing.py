"""How both sides publish: as the other contenders do, transient and not confirmed."""

from __future__ import annotations

from nameko.amqp.publish import Publisher
from nameko.constants import NON_PERSISTENT
from nameko.rpc import MethodProxy, Responder


class TransientPublisher(Publisher):
    """Publishes messages that are neither kept nor confirmed."""

    delivery_mode = NON_PERSISTENT
    use_confirms = False


def transient() -> None:
    """Have nameko publish so in this process."""
    MethodProxy.publisher_cls = Responder.publisher_cls = TransientPublisher
