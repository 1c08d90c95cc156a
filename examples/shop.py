"""A service whose functions take and return dataclasses, enums, dates and decimals, and raise an error of its own.

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
    """How large it is."""

    SMALL = "small"
    LARGE = "large"


@dataclass
class Order:
    """What somebody wants."""

    item: str
    quantity: int
    size: Size
    ordered_at: datetime


@dataclass
class Receipt:
    """What somebody gets."""

    order: Order
    total: Decimal
    arrives_at: datetime


# Registered on both sides, it arrives as itself; both import it from here.
@register_error
class OutOfStock(Exception):
    """There are fewer than were ordered."""

    def __init__(self, item: str, left: int) -> None:
        super().__init__(f"only {left} of {item} left")
        self.item = item
        self.left = left


_stock = {"teapot": 3, "cup": 100}
_prices = {Size.SMALL: Decimal("4.95"), Size.LARGE: Decimal("19.90")}


# Ordering twice would send two parcels, so it is not idempotent=True: it never runs twice for one call.
@service.rpc
async def buy(order: Order) -> Receipt:
    """Take an order."""
    left = _stock.get(order.item, 0)
    if order.quantity > left:
        raise OutOfStock(order.item, left)
    await asyncio.sleep(0.01)  # an `async def` handler may wait: others run meanwhile
    return Receipt(order, order.quantity * _prices[order.size], order.ordered_at + timedelta(days=2))


@service.rpc(idempotent=True)
def in_stock(item: str) -> int:
    """Return how many there are."""
    return _stock.get(item, 0)
