"""A service with dataclasses, enums, dates and decimals, and an exception class of its own.

Run it with ``amqp-rpc serve examples.shop``; ``examples/own_errors.py`` calls it.
"""

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum

from amqp_rpc import Service, register_error

service = Service("shop")


class Size(Enum):
    """Sizes of an item."""

    SMALL = "small"
    LARGE = "large"


@dataclass
class Order:
    """An order of a customer."""

    item: str
    quantity: int
    size: Size
    ordered_at: datetime


@dataclass
class Receipt:
    """The shop's answer to an order."""

    order: Order
    total: Decimal
    arrives_at: datetime


# Both sides import it from here and register it, so the client gets this class.
@register_error
class OutOfStock(Exception):
    """The shop has fewer than were ordered."""

    def __init__(self, item: str, left: int) -> None:
        super().__init__(f"only {left} of {item} left")
        self.item = item
        self.left = left


_stock = {"teapot": 3, "cup": 100}
_prices = {Size.SMALL: Decimal("4.95"), Size.LARGE: Decimal("19.90")}


# Not idempotent=True: buying twice sends two parcels, so it never runs twice for one call.
@service.rpc
async def buy(order: Order) -> Receipt:
    """Accept an order."""
    left = _stock.get(order.item, 0)
    if order.quantity > left:
        raise OutOfStock(order.item, left)
    await asyncio.sleep(0.01)  # other handlers run while an `async def` handler waits
    return Receipt(order, order.quantity * _prices[order.size], order.ordered_at + timedelta(days=2))


@service.rpc(idempotent=True)
def in_stock(item: str) -> int:
    """Return the number in stock."""
    return _stock.get(item, 0)
